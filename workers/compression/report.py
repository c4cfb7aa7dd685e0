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
    streamed_bytes_per_second: float = math.inf
    unmeasured: tuple[str, ...] = ()


def build_report(findings: Findings, recipe: Recipe, objective: Objective | None, seed: int) -> Report:
    """Put the report together; ``recipe`` has its defaults filled in."""
    comparison = findings.comparison
    baseline = describe_side(findings.baseline, comparison.baseline)
    compressed = describe_side(findings.compressed, comparison.compressed)
    delta = Delta(
        size_ratio=baseline.size_bytes / compressed.size_bytes,
        parameters_ratio=baseline.parameters / max(1, compressed.parameters),
        macs_ratio=baseline.macs / max(1, compressed.macs),
        latency_ratio=findings.latency_ratio,
        metric_drop=comparison.drop,
        metric_drops=dict(comparison.drops),
        agreement=comparison.agreement,
    )
    outcome = _judge(comparison, objective)
    steady = _is_steady(findings.baseline.latency[0], findings.compressed.latency[0])
    verdict = decide(delta, outcome, recipe, comparison, steady=steady)
    more = filter(
        None,
        (
            *_speed_facts(findings, recipe),
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
        environment=findings.environment,
        recipe=recipe,
        seed=seed,
    )


def _is_steady(before: LatencyFigures, after: LatencyFigures) -> bool:
    """Tell whether the timing can show a file to be faster: where it is noisy, three quarters must be apart."""
    return not after.noisy or before.p25_ms > NOISE * after.p75_ms


def decide(
    delta: Delta, objective: ObjectiveOutcome | None, recipe: Recipe, comparison: Comparison, *, steady: bool
) -> Verdict:
    """Say in plain words whether the result is faster, smaller and as accurate, and why.

    Faster needs the whole interval above :data:`NOISE`, a steady timing, and a step that leaves less to compute than
    zeros do.
    As accurate is what the objective allows; without one, a drop that could be chance.
    """
    zeros = _makes_zeros_alone(recipe)
    faster = delta.latency_ratio.ci95[0] > NOISE and steady and not zeros
    smaller = delta.size_ratio > 1
    drop = delta.metric_drop
    as_accurate = objective.met if objective else drop.ci95[0] <= 0
    return Verdict(
        faster=faster,
        smaller=smaller,
        as_accurate=as_accurate,
        reasons=(_speed(delta.latency_ratio, faster=faster, zeros=zeros), _size(delta), _loss(comparison, objective)),
    )


def _speed_facts(findings: Findings, recipe: Recipe) -> Iterator[str]:
    profile, last = findings.compressed, recipe[-1]
    if profile.operators is None:
        return iter(())
    return explain(
        Facts(
            latency=profile.latency[0],
            operators=profile.operators.operators,
            outside=profile.operators.outside,
            weight_bytes=sum(found.weight_bytes for found in profile.operators.operators),
            streamed_bytes_per_second=findings.streamed_bytes_per_second,
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
    )


def _judge(comparison: Comparison, objective: Objective | None) -> ObjectiveOutcome | None:
    if objective is None:
        return None
    met = within(comparison.drop.value, objective.max_drop)
    metric = learning.objective_metric(objective, comparison.task)
    return ObjectiveOutcome(metric=metric, max_drop=objective.max_drop, met=met)


def _speed(ratio: LatencyRatio, *, faster: bool, zeros: bool) -> str:
    figures = f"{ratio.value:.2f} times the speed (95 % interval {ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f})"
    if faster:
        return f"It runs at {figures}."
    if ratio.ci95[1] < 1 / NOISE:
        return f"It is slower: it runs at {figures}."
    if zeros:
        return f"Zeros alone make it no faster; measured were {figures}."
    return f"It is not shown to be faster or slower by more than {NOISE - 1:.0%}: {figures}."


def _size(delta: Delta) -> str:
    counts = f"parameters shrink {delta.parameters_ratio:.2f} times, multiplications {delta.macs_ratio:.2f} times"
    if delta.size_ratio > 1:
        return f"The file is {delta.size_ratio:.2f} times smaller; {counts}."
    return f"The file is not smaller: it has {1 / delta.size_ratio:.2f} times the baseline's size; {counts}."


def _loss(comparison: Comparison, objective: ObjectiveOutcome | None) -> str:
    drop, metric = comparison.drop, comparison.metric
    # A gain is a drop below 0: its interval turns round with it.
    gains = drop.value < 0
    low, high = (-drop.ci95[1], -drop.ci95[0]) if gains else drop.ci95
    test = "McNemar" if metric == "accuracy" and comparison.task is LearningTask.CLASSIFICATION else "bootstrap"
    figures = (
        f"{METRIC_WORDS[metric]} {'rises' if gains else 'drops'} by {abs(drop.value):.4f}"
        f" (95 % interval {low:.4f} to {high:.4f}, {test} {chance(drop.p_value)})"
    )
    if objective is None:
        return f"{figures}; no objective was set."
    return f"{figures}; {'within' if objective.met else 'more than'} the drop of {objective.max_drop:.4f} allowed."
