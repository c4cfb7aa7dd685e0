"""How well exported files do, run in ONNX Runtime, and the difference between two of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from app.domain.errors import CheckFailed, DatasetMismatch, UnsupportedNetwork
from app.domain.learning_task import IGNORED, LearningTask
from app.domain.report import ClassFigures, MetricDrop, MetricValue
from workers.compression.datasets import Dataset
from workers.compression.hits import by_class, hit_rate, measure_drop
from workers.compression.inference import BATCH_ROWS, dynamic_sizes, rows_at_once
from workers.compression.resampling import interval, p_value, resample
from workers.compression.tasks import TASKS, Task
from workers.compression.tasks.metrics import Figure, Terms, compact, correlation, join, narrow, ranks, unit, varies

JUDGE = "validation"
"""The split that files are judged on."""
PAIRS = 10_000
_ROUNDING = 1e-9

Logits = NDArray[np.float32]
BY_CLASS = frozenset({LearningTask.CLASSIFICATION, LearningTask.TOKEN_CLASSIFICATION, LearningTask.SEGMENTATION})
"""Tasks with classes few enough to be told one by one."""


@dataclass(frozen=True)
class Judged:
    """What the rows that judge say of one side, in their order.

    ``decisions`` are those that count, one a row, a label or a token, or outputs that decide nothing.
    """

    task: Task
    figures: Mapping[str, Figure]
    terms: Mapping[str, Terms]
    decisions: NDArray[Any]
    labels: NDArray[Any] | None
    pairs: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]

    @property
    def rows(self) -> int:
        return int(self.terms[self.task.metric].shape[0])

    def value(self, name: str) -> float:
        return self.figures[name].value(self.terms[name])


@dataclass(frozen=True)
class Comparison:
    """All figures of both sides on the same rows; ``metric`` is the one that the drop is of."""

    task: LearningTask
    metric: str
    baseline: Mapping[str, MetricValue]
    compressed: Mapping[str, MetricValue]
    drops: Mapping[str, MetricDrop]
    agreement: float
    classes: tuple[ClassFigures, ...]

    @property
    def drop(self) -> MetricDrop:
        return self.drops[self.metric]


def predict(path: Path, data: Dataset, split: str, threads: int, limit: int | None = None) -> Logits:
    """Run the file over the rows of a split in their order, (rows, …); over the first ``limit`` if given."""
    return np.concatenate([outputs for _, outputs in prediction_batches(path, data, split, threads, limit)])


def prediction_batches(
    path: Path, data: Dataset, split: str, threads: int, limit: int | None = None
) -> Iterator[tuple[NDArray[np.int64], Logits]]:
    """Give rows with the file's first outputs for them, batch by batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names, shapes = zip(*((value.name, value.shape) for value in session.get_inputs()), strict=True)
    fixed = shapes[0][0] if isinstance(shapes[0][0], int) else None
    size = fixed or rows_at_once(session.get_outputs()[0].shape, BATCH_ROWS, dynamic_sizes(shapes, data))
    rows = np.arange(data.rows(split))[:limit]
    for start in range(0, len(rows), size):
        picked = rows[start : start + size]
        # A fixed batch is filled up with repeated rows, whose outputs are dropped.
        inputs, _ = data.gather(split, np.resize(picked, fixed) if fixed else picked)
        outputs = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        yield picked, outputs[0][: len(picked)].astype(np.float32, copy=False)


def judge(path: Path, data: Dataset, threads: int, baseline: Judged | None = None) -> Judged:
    """Run the file over the validation rows and keep what they say of it, but for outputs that are decided upon.

    An embedding is judged against that of the ``baseline``, which is None for the baseline itself.

    Raises:
        DatasetMismatch: no label of any row counts.
        UnsupportedNetwork: the baseline gives what is not finite, which nothing can be compared with.
        CheckFailed: the other file does.
    """
    task = TASKS[data.task]
    labels = data.labels(JUDGE) if data.labelled(JUDGE) else None
    batches = _finite(prediction_batches(path, data, JUDGE, threads), original=baseline is None)
    return judge_batches(task, batches, labels, baseline)


def _finite(
    batches: Iterable[tuple[NDArray[np.int64], Logits]], *, original: bool
) -> Iterator[tuple[NDArray[np.int64], Logits]]:
    """Pass outputs on; what is not finite would make figures that no report can hold."""
    for rows, outputs in batches:
        wrong = ~np.isfinite(outputs).reshape(len(rows), -1).all(axis=1)
        if wrong.any():
            told = f"output is NaN or infinite, first for row {rows[wrong][0]} of {JUDGE}"
            if not original:
                raise CheckFailed(f"The compressed file's first {told}.")
            raise UnsupportedNetwork(
                f"The network's first {told}: nothing can be compared with it.",
                hint="Look for a logarithm or a division on the way, or leave out what masks with infinity.",
            )
        yield rows, outputs


def judge_batches(
    task: Task,
    batches: Iterable[tuple[NDArray[np.int64], Logits]],
    labels: NDArray[Any] | None,
    baseline: Judged | None = None,
) -> Judged:
    """Judge outputs that come with their rows by labels, or by the outputs of a ``baseline``."""
    figures: Mapping[str, Figure] = {}
    terms: dict[str, list[Terms]] = {}
    decisions = []
    truths = baseline.decisions if labels is None and baseline is not None else labels
    # No figure of numbers knows where zero lies; about their mean, sums of squares keep their digits.
    centre = (
        labels.mean(axis=0, dtype=np.float64) if labels is not None and task.name is LearningTask.REGRESSION else 0.0
    )
    for rows, outputs in batches:
        figures = figures or task.figures(outputs.shape[1:])
        wanted = outputs if truths is None else truths[rows]
        decided = task.decide(outputs)
        decisions.append(compact(decided[wanted != IGNORED] if wanted.dtype.kind == "i" else decided))
        shifted = outputs
        if task.name is LearningTask.REGRESSION:
            shape = outputs.shape
            shifted, wanted = outputs - np.reshape(centre, (1, *shape[1:])), (wanted - centre).reshape(shape)
        for name, figure in figures.items():
            terms.setdefault(name, []).append(figure.terms(shifted, wanted))
    joined = {name: join(parts) for name, parts in terms.items()}
    decided = np.concatenate(decisions)
    if not len(decided):
        raise DatasetMismatch(
            f"no label of the {JUDGE} rows counts: all are {IGNORED} or hidden by a mask, so that nothing is judged",
            hint=f"Label more rows, or give a {JUDGE} split of rows with labels.",
        )
    judged = Judged(task, figures, joined, decided, labels, {})
    return with_pairs(judged, baseline) if task.name is LearningTask.EMBEDDING else judged


def with_pairs(judged: Judged, baseline: Judged | None) -> Judged:
    """Add whether pairs of rows that are alike for the baseline are so here: Spearman's of their cosines."""
    ours, count = unit(judged.decisions), len(judged.decisions)
    theirs = ours if baseline is None else unit(baseline.decisions)
    if count < 3:
        return judged
    first, second = pairs_of(count) if baseline is None else baseline.pairs["spearman"]
    alike = [(values[first] * values[second]).sum(axis=1) for values in (ours, theirs)]
    return replace(
        judged,
        figures={**judged.figures, "spearman": Figure(ranks, correlation)},
        terms={**judged.terms, "spearman": ranks(*alike)},
        pairs={"spearman": (first, second)},
    )


def pairs_of(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give all pairs of few rows, and some that are drawn of many."""
    if count * (count - 1) // 2 <= PAIRS:
        return np.triu_indices(count, 1)
    generator = np.random.default_rng(count)
    first = generator.integers(count, size=PAIRS)
    return first, (first + 1 + generator.integers(count - 1, size=PAIRS)) % count


def check_metric(judged: Judged, metric: str) -> None:
    """Raise DatasetMismatch where the rows are too few, or too alike, to tell what an objective is about."""
    if metric not in judged.figures:
        raise DatasetMismatch(
            f"{metric} compares pairs of rows and says something of three or more; {JUDGE} has {judged.rows}",
            hint="Judge on more rows, or set the objective on another metric.",
        )
    if metric == "r2" and not varies(np.asarray(judged.terms[metric].sum(axis=0))):
        raise DatasetMismatch(
            f"r2 is a share of how far labels are from their mean; those of the {JUDGE} rows, {judged.rows}, are all"
            " the same: it would be 0 on both sides, and the objective met whatever was lost",
            hint="Judge on rows whose labels differ, or leave the objective out and look at mse and mae.",
        )


def value_of(task: Task, metric: str, outputs: Logits, labels: NDArray[Any]) -> float:
    """Give one metric of outputs for rows, (rows, …)."""
    if metric == "spearman":
        ours, theirs, (first, second) = unit(outputs), unit(labels), pairs_of(len(labels))
        alike = [(values[first] * values[second]).sum(axis=1) for values in (ours, theirs)]
        return Figure(ranks, correlation).value(ranks(*alike))
    figure = task.figures(outputs.shape[1:])[metric]
    return figure.value(figure.terms(outputs, labels.reshape(outputs.shape) if labels.dtype.kind == "f" else labels))


def measure(judged: Judged, seed: int) -> dict[str, MetricValue]:
    """Give all figures of one side with their intervals."""
    drawn = _resample({"": judged}, seed)
    return {name: _value(judged, name, drawn["", name]) for name in judged.figures}


def compare(
    baseline: Judged,
    compressed: Judged,
    seed: int,
    metric: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Comparison:
    """Compare two sides on the same rows in the same order; ``metric`` is the task's own where none is given."""
    drawn = _resample({"before": baseline, "after": compressed}, seed)
    sides = {
        side: {name: _value(judged, name, drawn[side, name]) for name in judged.figures}
        for side, judged in (("before", baseline), ("after", compressed))
    }
    drops = {}
    for name, figure in baseline.figures.items():
        sign = 1 if figure.more_is_better else -1
        lost = sign * (drawn["before", name] - drawn["after", name])
        value = sign * (sides["before"][name].value - sides["after"][name].value)
        drops[name] = MetricDrop(value=value, ci95=interval(lost), p_value=p_value(lost))
    classes: tuple[ClassFigures, ...] = ()
    if baseline.task.name in BY_CLASS:
        assert baseline.labels is not None
        labels = compact(baseline.labels)
        labels = labels[labels != IGNORED]
        before, after = (side.decisions == labels for side in (baseline, compressed))
        classes = by_class(before, after, labels, class_names)
        if baseline.task.name is LearningTask.CLASSIFICATION:
            drops["accuracy"] = measure_drop(before, after)
    return Comparison(
        task=baseline.task.name,
        metric=metric or baseline.task.metric,
        baseline=sides["before"],
        compressed=sides["after"],
        drops=drops,
        agreement=agreement(baseline.decisions, compressed.decisions),
        classes=classes,
    )


def agreement(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Give the share of decisions alike or, of outputs that decide nothing, 1 − ‖a − b‖ / ‖a‖, at least 0."""
    if before.dtype.kind == "f":
        return max(0.0, 1 - relative_difference(before, after))
    return float((before == after).mean())


def relative_difference(before: NDArray[Any], after: NDArray[Any]) -> float:
    a, b = before.astype(np.float64), after.astype(np.float64)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-12))


def _value(judged: Judged, name: str, drawn: NDArray[np.float64]) -> MetricValue:
    if judged.task.name is LearningTask.CLASSIFICATION and name == "accuracy":
        return hit_rate(int((judged.decisions == judged.labels).sum()), judged.rows)
    return MetricValue(value=judged.value(name), ci95=interval(drawn), samples=judged.rows)


def _resample(sides: Mapping[str, Judged], seed: int) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Give each figure of each side in every sample; all are drawn together, so that differences are paired."""
    keys = {f"{side} {name}": (side, name) for side, judged in sides.items() for name in judged.figures}
    narrowed = {key: narrow(sides[side].terms[name]) for key, (side, name) in keys.items()}
    columns = {key: part for key, (part, _) in narrowed.items()}
    pairs = {key: sides[side].pairs[name] for key, (side, name) in keys.items() if name in sides[side].pairs}
    rows = next(iter(sides.values())).rows

    def combine(key: str, sums: NDArray[Any]) -> NDArray[Any]:
        side, name = keys[key]
        return sides[side].figures[name].combine(np.ldexp(sums, narrowed[key][1][:, None]))

    return {keys[key]: values for key, values in resample(rows, seed, columns, combine, pairs).items()}


def within(drop: float, allowed: float) -> bool:
    """Tell whether a drop is allowed, though 0.3 − 0.29 is a hair above 0.01 in binary."""
    return drop <= allowed + _ROUNDING
