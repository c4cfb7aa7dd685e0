"""Accuracy of exported files, run in ONNX Runtime, and of the difference between two of them."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import onnxruntime
from numpy.typing import NDArray

# All of scipy.stats would take a second to import, in every job.
from scipy.special import bdtr

from app.domain.report import ClassFigures, MetricDrop, MetricValue
from workers.compression.datasets import Dataset

BATCH_ROWS = 256
CONFIDENCE = 0.95
BOOTSTRAP_SAMPLES = 10_000
_ROUNDING = 1e-9

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """Accuracy of both sides on the same rows; ``drop`` is baseline minus compressed."""

    baseline: MetricValue
    compressed: MetricValue
    drop: MetricDrop
    agreement: float
    classes: tuple[ClassFigures, ...]


def predict(path: Path, data: Dataset, split: str, threads: int, limit: int | None = None) -> Logits:
    """Run the file over the rows of a split in their order, (rows, classes); over the first ``limit`` if given."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    first = session.get_inputs()[0].shape[0]
    fixed = first if isinstance(first, int) else None
    rows = np.arange(data.rows(split))[:limit]
    pieces = []
    for start in range(0, len(rows), fixed or BATCH_ROWS):
        picked = rows[start : start + (fixed or BATCH_ROWS)]
        # A fixed batch is filled up with repeated rows, whose outputs are dropped.
        inputs, _ = data.gather(split, np.resize(picked, fixed) if fixed else picked)
        outputs = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        pieces.append(outputs[0][: len(picked)].astype(np.float32))
    return np.concatenate(pieces)


def measure_accuracy(logits: Logits, labels: NDArray[np.int64]) -> MetricValue:
    """Give the share of rows whose highest logit is the label, with the 95 % interval of Wilson 1927."""
    hits = int((logits.argmax(axis=1) == labels).sum())
    return MetricValue(value=hits / len(labels), ci95=wilson_interval(hits, len(labels)), samples=len(labels))


def wilson_interval(hits: int, rows: int) -> tuple[float, float]:
    """Give where the share behind ``hits`` of ``rows`` lies, (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)."""
    z, share = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), hits / rows
    centre = share + z**2 / (2 * rows)
    reach = z * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    whole = 1 + z**2 / rows
    return max(0.0, (centre - reach) / whole), min(1.0, (centre + reach) / whole)


def mcnemar_p_value(lost: int, gained: int) -> float:
    """Give the two-sided p-value of McNemar's exact test: that of as few heads in ``lost + gained`` fair throws."""
    return min(1.0, 2 * float(bdtr(min(lost, gained), lost + gained, 0.5)))


def compare(baseline: Logits, compressed: Logits, labels: NDArray[np.int64], seed: int) -> Comparison:
    """Compare two files on the same rows in the same order; logits are (rows, classes)."""
    before, after = baseline.argmax(axis=1), compressed.argmax(axis=1)
    return Comparison(
        baseline=measure_accuracy(baseline, labels),
        compressed=measure_accuracy(compressed, labels),
        drop=measure_drop(before == labels, after == labels, seed),
        agreement=float((before == after).mean()),
        classes=_by_class(before == labels, after == labels, labels),
    )


def measure_drop(before: NDArray[np.bool_], after: NDArray[np.bool_], seed: int) -> MetricDrop:
    """Give how much accuracy is lost from hits before to hits after, row by row.

    The p-value is that of McNemar's exact test, the binomial test on rows that only one side has right.
    The interval holds the middle 95 % of a paired bootstrap (Efron 1979): as each row's difference is
    1, 0 or −1, drawing rows anew is drawing how often each of the three comes up.
    """
    rows = len(before)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    shares = [lost / rows, gained / rows, 1 - (lost + gained) / rows]
    draws = np.random.default_rng(seed).multinomial(rows, shares, BOOTSTRAP_SAMPLES)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / rows, [tail, 1 - tail])
    return MetricDrop(
        value=(lost - gained) / rows, ci95=(float(low), float(high)), p_value=mcnemar_p_value(lost, gained)
    )


def within(drop: float, allowed: float) -> bool:
    """Tell whether a drop is allowed, though 0.3 − 0.29 is a hair above 0.01 in binary."""
    return drop <= allowed + _ROUNDING


def _by_class(
    before: NDArray[np.bool_], after: NDArray[np.bool_], labels: NDArray[np.int64]
) -> tuple[ClassFigures, ...]:
    figures = []
    for label in np.unique(labels):
        mask = labels == label
        figures.append(
            ClassFigures(
                class_=int(label),
                samples=int(mask.sum()),
                baseline=float(before[mask].mean()),
                compressed=float(after[mask].mean()),
            )
        )
    return tuple(figures)
