"""Accuracy of exported files, run in ONNX Runtime, and of the difference between two of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from scipy import stats

from app.domain.report import ClassFigures, MetricDrop, MetricValue
from workers.compression.datasets import Dataset

BATCH_ROWS = 256
CONFIDENCE = 0.95
BOOTSTRAP_SAMPLES = 10_000

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
    low, high = stats.binomtest(hits, len(labels)).proportion_ci(CONFIDENCE, "wilson")
    return MetricValue(value=hits / len(labels), ci95=(float(low), float(high)), samples=len(labels))


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
    p_value = float(stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    shares = [lost / rows, gained / rows, 1 - (lost + gained) / rows]
    draws = np.random.default_rng(seed).multinomial(rows, shares, BOOTSTRAP_SAMPLES)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / rows, [tail, 1 - tail])
    return MetricDrop(value=(lost - gained) / rows, ci95=(float(low), float(high)), p_value=p_value)


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
