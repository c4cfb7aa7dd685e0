"""The report: what a job measured. Ratios are baseline over compressed, so above 1 is better."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.domain.job import Objective
from app.domain.learning_task import METRICS, LearningTask, Metric
from app.domain.recipe import Recipe

Interval = tuple[float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, serialize_by_alias=True)


class MetricValue(_Part):
    """A metric on the validation rows with its 95 % interval."""

    value: float
    ci95: Interval
    samples: int


class LatencyFigures(_Part):
    """Latency of one file for one batch size, in milliseconds a batch.

    ``throughput_per_second`` is of rows at the median. ``mean_ms`` is of all runs, with every stall that something else
    on the machine caused: on a busy one it says little of the file, and ``noisy`` does not watch it. ``spread`` is
    (p75 − p25) / p50; ``noisy`` says that it, or the other file's, stayed above 0.25 when measured again, or that the
    measurement lost its turn: something else ran on the same cores. ``energy_mj`` is what the processor's
    package used a batch, null where the hardware does not tell.
    """

    runtime: str
    batch_size: int
    threads: int
    mean_ms: float
    p25_ms: float
    p50_ms: float
    p75_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    throughput_per_second: float
    runs: int
    spread: float
    noisy: bool
    energy_mj: float | None = None


class OperatorFigures(_Part):
    """All nodes of one kind that the runtime runs in a file, by its own profiler, at the first batch size.

    ``time_ms`` is the sum over nodes of the mean of the middle half of their runs, less what the profiler adds to each.
    ``weight_bytes`` are those of the stored values that they compute with, in the graph that the runtime made of it.
    """

    operator: str
    nodes: int
    time_ms: float
    time_share: float
    weight_bytes: int


class Side(_Part):
    """One of the two files compared. ``size_bytes`` is that of the ONNX file.

    ``packed_bytes`` is that of the file in Zstandard, measured where a step set single weights to zero. Memory and the
    time to load the file, the least of five, are those of the runtime in a process of its own. ``operators_noisy`` says
    that the operators' times stayed too far from the run's own: no reason rests on them.
    """

    size_bytes: int
    packed_bytes: int | None = None
    parameters: int
    nonzero_parameters: int
    macs: int
    peak_memory_bytes: int
    load_ms: float
    metrics: dict[str, MetricValue]
    latency: tuple[LatencyFigures, ...]
    operators: tuple[OperatorFigures, ...] = ()
    operators_noisy: bool = False


class LatencyRatio(_Part):
    value: float
    ci95: Interval


class MetricDrop(_Part):
    """What is lost of a metric: above 0 is worse, also of metrics of which less is better.

    The p-value of the accuracy of rows is that of McNemar's exact test, its interval the wider of Newcombe's of paired
    shares and of what the test leaves; of all else both are those of a paired bootstrap.
    """

    value: float
    ci95: Interval
    p_value: float


class Delta(_Part):
    """Compressed against baseline. ``latency_ratio`` is of medians at the first batch size, its interval over rounds.

    ``metric_drop`` is of the objective's metric, or the task's first; ``metric_drops`` are of all.
    ``agreement`` is the share of decisions that both make alike; of outputs that decide nothing, 1 − ‖a − b‖ / ‖a‖.
    """

    size_ratio: float
    parameters_ratio: float
    macs_ratio: float
    latency_ratio: LatencyRatio
    metric_drop: MetricDrop
    metric_drops: dict[str, MetricDrop] = {}
    agreement: float


class ObjectiveOutcome(Objective):
    metric: Metric
    met: bool


class Verdict(_Part):
    """In short; ``as_accurate`` is null where nothing can tell: of an embedding without an objective."""

    faster: bool
    smaller: bool
    as_accurate: bool | None
    reasons: tuple[str, ...]


class NoVerdict(_Part):
    """What an analysis has to say: null where a verdict would compare."""

    faster: None = None
    smaller: None = None
    as_accurate: None = None
    reasons: tuple[str, ...]


class StepOutcome(_Part):
    """What one step did; ``before`` and ``after`` hold parameters, macs and the like."""

    method: str
    spec: dict[str, Any]
    seconds: float
    before: dict[str, Any]
    after: dict[str, Any]
    details: dict[str, Any]


class LayerFigures(_Part):
    """One layer; what follows ``bits`` was measured on calibration rows, and is null for layers in float.

    ``range`` is that of the float output. ``saturated`` is the share of values beyond the integers' range: of outputs
    where activations are integers, of weights where only those are stored as such.
    """

    name: str
    sparsity: float
    bits: int
    sqnr_db: float | None
    range: tuple[float, float] | None = None
    saturated: float | None = None
    parameters: int
    macs: int


class ClassFigures(_Part):
    """Accuracy within one class, of baseline and result; ``samples`` are rows, tokens or pixels as the task has it.

    ``name`` is there where the data set has names.
    """

    class_: int = Field(alias="class")
    name: str | None = None
    samples: int
    baseline: float
    compressed: float

    @property
    def label(self) -> str:
        """What to call it on a page."""
        return str(self.class_) if self.name is None else self.name


class FileAgreement(_Part):
    """How far the outputs of ``model.pt2`` in torch and of ``model.onnx`` in its runtime are apart, on validation rows.

    ``equal_predictions`` is a share of the decisions, one a row, a label or a token; ``largest_difference`` is of one
    output, ``relative_difference`` ‖a − b‖ / ‖a‖ over all; ``widest_tie`` is the largest margin, in standard deviations
    of the outputs, by which something was decided that the files decide differently: 0 where there is none. Outputs
    that decide nothing, of regression and embedding, have neither share nor margin.
    """

    rows: int
    equal_predictions: float | None
    largest_difference: float
    relative_difference: float
    widest_tie: float | None


class DataFigures(_Part):
    """Rows used of each split, and rows of validation that also stand in the others."""

    train: int
    calibration: int
    validation: int
    overlap: int


class Environment(_Part):
    cpu: str
    isa: tuple[str, ...]
    threads: int
    torch: str
    onnxruntime: str
    python: str
    service: str


class Report(_Part):
    """What a job that compressed something measured."""

    task: LearningTask = LearningTask.CLASSIFICATION
    baseline: Side
    compressed: Side
    delta: Delta
    objective: ObjectiveOutcome | None
    verdict: Verdict
    steps: tuple[StepOutcome, ...]
    layers: tuple[LayerFigures, ...]
    classes: tuple[ClassFigures, ...]
    files: FileAgreement
    data: DataFigures
    timed_rows: dict[str, tuple[int, ...]] = Field(
        {}, description="Shape by input of the validation rows that time, memory and operators are of."
    )
    environment: Environment
    recipe: Recipe
    seed: int

    def headline(self) -> dict[str, Any]:
        """Give the figures that a job shows of itself."""
        before, after, delta = self.baseline, self.compressed, self.delta
        figures: dict[str, Any] = {
            "size_ratio": delta.size_ratio,
            "parameters_ratio": delta.parameters_ratio,
            "macs_ratio": delta.macs_ratio,
            "latency_ratio": delta.latency_ratio.value,
            "metric_drop": delta.metric_drop.value,
            "agreement": delta.agreement,
            "size_bytes": after.size_bytes,
        }
        judged = {METRICS[self.task][0], self.objective and self.objective.metric}
        for name, value in after.metrics.items():
            if name in judged:
                figures[name] = value.value
                figures[f"baseline_{name}"] = before.metrics[name].value
        if after.latency:
            figures["p50_ms"] = after.latency[0].p50_ms
            figures["baseline_p50_ms"] = before.latency[0].p50_ms
        if self.objective is not None:
            figures["objective_met"] = self.objective.met
        return figures


class AnalysisReport(_Part):
    """What a job that analyzed measured: the same fields, null where they would compare, as nothing was compressed."""

    task: LearningTask = LearningTask.CLASSIFICATION
    baseline: Side
    compressed: None = None
    delta: None = None
    objective: None = None
    verdict: NoVerdict
    steps: tuple[StepOutcome, ...]
    layers: tuple[LayerFigures, ...]
    classes: tuple[ClassFigures, ...]
    data: DataFigures
    timed_rows: dict[str, tuple[int, ...]] = Field(
        {}, description="Shape by input of the validation rows that time, memory and operators are of."
    )
    environment: Environment
    recipe: Recipe
    seed: int

    def headline(self) -> dict[str, Any]:
        """Give the figures that a job shows of itself."""
        (step,) = self.steps
        counted = ("groups", "groups_measured", "measurements", "complete")
        metric = METRICS[self.task][0]
        figures = {f"baseline_{metric}": self.baseline.metrics[metric].value}
        return figures | {name: step.details[name] for name in counted}


AnyReport = Report | AnalysisReport
ANY_REPORT: TypeAdapter[AnyReport] = TypeAdapter(AnyReport)


def report_schema() -> dict[str, Any]:
    """Give the JSON Schema (draft 2020-12) of what ``report.json`` holds."""
    schema = ANY_REPORT.json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Winnow report"}
    return {**head, "description": "A Report, or an AnalysisReport where nothing was compressed.", **schema}
