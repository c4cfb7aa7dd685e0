"""The report, put together from what was measured."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.domain.compatibility import learning
from app.domain.job import Objective
from app.domain.learning_task import LearningTask
from app.domain.recipe import Recipe
from app.domain.report import (
    DataFigures,
    Delta,
    Environment,
    FileAgreement,
    LatencyFigures,
    LatencyRatio,
    LayerFigures,
    MetricValue,
    ObjectiveOutcome,
    Report,
    Side,
    StepOutcome,
    Verdict,
)
from app.domain.steps.distill import BASELINE, DistillSpec
from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import QuantizeSpec
from workers.compression.environment import VNNI
from workers.compression.evaluation import Comparison, within
from workers.compression.explanation import Facts, explain
from workers.compression.figures import Counts
from workers.compression.footprint import Footprint
from workers.compression.operator_profile import OperatorProfile
from workers.compression.packing import leaves_zeros
from workers.compression.pages.words import chance
from workers.compression.resampling import CONFIDENCE

PACKED = "Packed weights are unpacked inside each product and summed in float32, so that the file is what gains."
LIMITS = {
    "cast": "Weights of 16 bits are unpacked when the file is loaded: this target computes in float32, so that the"
    " file alone gains.",
    "dynamic": "Dynamic ranges span a whole batch: what comes out for a row depends a little on those beside it.",
}
METRIC_WORDS: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "top5_accuracy": "Top-5 accuracy",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "subset_accuracy": "Subset accuracy",
    "r2": "R²",
    "cosine": "The cosine to the baseline's outputs",
    "spearman": "Spearman's correlation of similarities",
    "token_accuracy": "Token accuracy",
    "mean_iou": "Mean IoU",
    "pixel_accuracy": "Pixel accuracy",
}
NOISE = 1.03
"""Ratios of speed nearer to 1 than this are taken for noise: the interval knows only of what varies within one run, and
two files that do the same work can differ from run to run by where they lie in memory."""


@dataclass(frozen=True)
class Profile:
    """What running one file took; ``packed_bytes`` is its size in Zstandard, where a step made zeros."""

    path: Path
    counts: Counts
    latency: tuple[LatencyFigures, ...]
    footprint: Footprint
    packed_bytes: int | None = None
    operators: OperatorProfile | None = None


@dataclass(frozen=True)
class Findings:
    """All that was measured in a job; ``latency_ratio`` is baseline over compressed."""

    baseline: Profile
    compressed: Profile
    comparison: Comparison
    latency_ratio: LatencyRatio
    steps: tuple[StepOutcome, ...]
    layers: tuple[LayerFigures, ...]
    files: FileAgreement
    data: DataFigures
    environment: Environment
    timed_rows: Mapping[str, tuple[int, ...]]
    streamed_bytes_per_second: float = math.inf
    cache_bytes: int | None = None
    unmeasured: tuple[str, ...] = ()


def build_report(findings: Findings, recipe: Recipe, objective: Objective | None, seed: int) -> Report:
    """Put the report together; ``recipe`` has its defaults filled in."""
    comparison = findings.comparison
    baseline = describe_side(findings.baseline, comparison.baseline)
    compressed = describe_side(findings.compressed, comparison.compressed)
    delta = Delta(
        size_ratio=baseline.size_bytes / compressed.size_bytes,
        parameters_ratio=_ratio(baseline.parameters, compressed.parameters),
        macs_ratio=_ratio(baseline.macs, compressed.macs),
        latency_ratio=findings.latency_ratio,
        metric_drop=comparison.drop,
        metric_drops=dict(comparison.drops),
        agreement=comparison.agreement,
    )
    outcome = _judge(comparison, objective)
    timed = (findings.baseline.latency[0], findings.compressed.latency[0])
    verdict = decide(delta, outcome, recipe, comparison, timed)
    more = filter(
        None,
        (
            *_speed_facts(findings, recipe, delta, faster=verdict.faster),
            *findings.unmeasured,
            _zeros(findings),
            _storage(recipe),
            _leaks(findings.data),
            _other_vectors(recipe, comparison.task),
        ),
    )
    return Report(
        task=comparison.task,
        baseline=baseline,
        compressed=compressed,
        delta=delta,
        objective=outcome,
        verdict=verdict.model_copy(update={"reasons": (*verdict.reasons, *more)}),
        steps=findings.steps,
        layers=findings.layers,
        classes=comparison.classes,
        files=findings.files,
        data=findings.data,
        timed_rows=dict(findings.timed_rows),
        environment=findings.environment,
        recipe=recipe,
        seed=seed,
    )


def _ratio(before: int, after: int) -> float:
    """Divide two counts, of which either may be 0: a network that only looks up multiplies nothing."""
    return 1.0 if before == after else before / max(1, after)


def _is_apart(slower: LatencyFigures, faster: LatencyFigures) -> bool:
    """Tell whether the timing can show a difference: where it is noisy, three quarters of the runs must be apart."""
    return not slower.noisy or slower.p25_ms > NOISE * faster.p75_ms


def decide(
    delta: Delta,
    objective: ObjectiveOutcome | None,
    recipe: Recipe,
    comparison: Comparison,
    timed: tuple[LatencyFigures, LatencyFigures],
) -> Verdict:
    """Say in plain words whether the result is faster, smaller and as accurate, and why.

    Faster and slower need the whole interval beyond :data:`NOISE` and a timing that can show it; faster, also a step
    that leaves less to compute than zeros do.
    As accurate is what the objective allows; without one, a drop that could be chance by the test beside it.
    """
    zeros = _makes_zeros_alone(recipe)
    ratio = delta.latency_ratio
    faster = ratio.ci95[0] > NOISE and _is_apart(*timed) and not zeros
    slower = ratio.ci95[1] < 1 / NOISE and _is_apart(*timed[::-1])
    return Verdict(
        faster=faster,
        smaller=delta.size_ratio > 1,
        as_accurate=_as_accurate(comparison, objective),
        reasons=(_speed(ratio, faster=faster, slower=slower, zeros=zeros), _size(delta), _loss(comparison, objective)),
    )


def _as_accurate(comparison: Comparison, objective: ObjectiveOutcome | None) -> bool | None:
    if objective is not None:
        return objective.met
    if comparison.task is LearningTask.EMBEDDING:
        return None  # the baseline is what it is judged by: any change whatsoever is a drop, and none is chance
    return comparison.drop.value <= 0 or comparison.drop.p_value > 1 - CONFIDENCE


def _speed_facts(findings: Findings, recipe: Recipe, delta: Delta, *, faster: bool) -> Iterator[str]:
    before, after, last = findings.baseline, findings.compressed, recipe[-1]
    if before.operators is None or after.operators is None:
        return iter(())
    return explain(
        Facts(
            before=before.latency[0],
            latency=after.latency[0],
            before_profile=before.operators,
            profile=after.operators,
            faster=faster,
            speed=delta.latency_ratio.value,
            macs_ratio=delta.macs_ratio,
            streamed_bytes_per_second=findings.streamed_bytes_per_second,
            cache_bytes=findings.cache_bytes,
            on_integers=isinstance(last, QuantizeSpec) and last.calibrates,
            has_vnni=not VNNI.isdisjoint(findings.environment.isa),
        )
    )


def _makes_zeros_alone(recipe: Recipe) -> bool:
    """Tell whether single weights became zero and nothing else changed that the target could gain from."""
    smaller = any(
        isinstance(step, QuantizeSpec) or (isinstance(step, PruneSpec) and step.granularity == "channel")
        for step in recipe
    )
    return leaves_zeros(recipe) and not smaller


def _zeros(findings: Findings) -> str | None:
    """Say what zeros buy, where a step made some: bytes once compressed, of both files likewise."""
    before, after = findings.baseline.packed_bytes, findings.compressed.packed_bytes
    if before is None or after is None:
        return None
    counts, size = findings.compressed.counts, findings.compressed.path.stat().st_size
    return (
        f"{1 - counts.nonzero_parameters / max(1, counts.parameters):.1%} of the parameters are zero. Zeros give size"
        f" after compression and no speed on this target: zstd makes the file {size / after:.2f} times smaller, and"
        f" then it is {before / after:.2f} times smaller than the baseline's, compressed likewise."
    )


def _storage(recipe: Recipe) -> str | None:
    """Say what a scheme of quantization cannot give."""
    last = recipe[-1]
    if not isinstance(last, QuantizeSpec):
        return None
    return PACKED if last.packs else LIMITS.get(last.scheme)


def _other_vectors(recipe: Recipe, task: LearningTask) -> str | None:
    """Say where an embedding learned other vectors than those that it is judged by here."""
    teachers = [step.teacher for step in recipe if isinstance(step, DistillSpec) and step.teacher != BASELINE]
    if task is not LearningTask.EMBEDDING or not teachers:
        return None
    return (
        f"The vectors were learned from {' and '.join(dict.fromkeys(teachers))}; the figures compare them with the"
        " uploaded model's, and how near they are to the teacher's stands with the step's epochs."
    )


def _leaks(data: DataFigures) -> str | None:
    """Say how many validation rows were no use."""
    if not data.overlap:
        return None
    return (
        f"{data.overlap} of {data.overlap + data.validation} validation rows also stand in train or calibration;"
        " they judged nothing."
    )


def describe_side(profile: Profile, metrics: Mapping[str, MetricValue]) -> Side:
    return Side(
        size_bytes=profile.path.stat().st_size,
        packed_bytes=profile.packed_bytes,
        parameters=profile.counts.parameters,
        nonzero_parameters=profile.counts.nonzero_parameters,
        macs=profile.counts.macs,
        peak_memory_bytes=profile.footprint.peak_memory_bytes,
        load_ms=profile.footprint.load_ms,
        metrics=dict(metrics),
        latency=profile.latency,
        operators=profile.operators.operators if profile.operators else (),
        operators_noisy=profile.operators is not None and profile.operators.noisy,
    )


def _judge(comparison: Comparison, objective: Objective | None) -> ObjectiveOutcome | None:
    if objective is None:
        return None
    met = within(comparison.drop.value, objective.max_drop)
    metric = learning.objective_metric(objective, comparison.task)
    return ObjectiveOutcome(metric=metric, max_drop=objective.max_drop, met=met)


def _speed(ratio: LatencyRatio, *, faster: bool, slower: bool, zeros: bool) -> str:
    figures = f"{ratio.value:.2f} times the speed (95 % interval {ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f})"
    if faster:
        return f"It runs at {figures}."
    if slower:
        return f"It is slower: it runs at {figures}."
    if zeros:
        return f"Zeros alone make it no faster; measured were {figures}."
    return f"It is not shown to be faster or slower by more than {NOISE - 1:.0%}: {figures}."


def _size(delta: Delta) -> str:
    counts = f"{_counted('parameters', delta.parameters_ratio)}, {_counted('multiplications', delta.macs_ratio)}"
    if delta.size_ratio > 1:
        return f"The file is {_times(delta.size_ratio)} times smaller; {counts}."
    if delta.size_ratio == 1:
        return f"The file is not smaller: it has the baseline's size; {counts}."
    return f"The file is not smaller: it has {_times(1 / delta.size_ratio)} times the baseline's size; {counts}."


def _counted(name: str, ratio: float) -> str:
    if ratio == 1:
        return f"{name} are as many as before"
    if ratio > 1:
        return f"{name} shrink {_times(ratio)} times"
    if not ratio:
        return f"{name} are new: the baseline has none"
    return f"{name} grow {_times(1 / ratio)} times"


def _times(ratio: float) -> str:
    """Give a ratio above 1 with as many digits as keep it from reading as 1."""
    return next(text for digits in range(2, 17) if float(text := f"{ratio:.{digits}f}") > 1)


def _loss(comparison: Comparison, objective: ObjectiveOutcome | None) -> str:
    drop, metric = comparison.drop, comparison.metric
    # A gain is a drop below 0: its interval turns round with it.
    gains = drop.value < 0
    low, high = (-drop.ci95[1], -drop.ci95[0]) if gains else drop.ci95
    rows = comparison.compressed[metric].samples
    test = "McNemar" if metric == "accuracy" and comparison.task is LearningTask.CLASSIFICATION else "bootstrap"
    figures = (
        f"{METRIC_WORDS[metric]} {_moves(drop.value)} ({_interval(low, high, rows)}, {test} {chance(drop.p_value)})"
    )
    if objective is None and comparison.task is LearningTask.EMBEDDING:
        return (
            f"{figures}. Whether that is near enough was not judged: the baseline is the measure, so that any change is"
            " a drop. An objective would tell."
        )
    if objective is None:
        return f"{figures}; no objective was set."
    return f"{figures}; {'within' if objective.met else 'more than'} the drop of {objective.max_drop:.4f} allowed."


def _moves(drop: float) -> str:
    if drop == 0:
        return "stays as it was"
    return f"{'rises' if drop < 0 else 'drops'} by {abs(drop):.4f}"


def _interval(low: float, high: float, rows: int) -> str:
    """Give the interval; where no resample differed, what rows that were not drawn may yet do (the rule of three)."""
    if low == high:
        return f"the same in every resample; up to {min(1, 3 / rows):.1%} of other rows may yet differ"
    return f"95 % interval {low:.4f} to {high:.4f}"
