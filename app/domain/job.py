"""A job: what was asked, the states it passes through and the events it leaves."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from app.domain.errors import FieldError, ValidationFailed
from app.domain.exact import Exact
from app.domain.learning_task import LearningTask, Metric
from app.domain.recipe import Recipe


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def ended(self) -> bool:
        return self in _ENDED


_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT})


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {
            JobState.QUEUED,
            JobState.CANCELLING,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.TIMED_OUT,
        }
    ),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    # Only when its user asks for another try.
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    JobState.TIMED_OUT: frozenset({JobState.QUEUED}),
}

MOST_RETRIES = 3
"""How often a job is tried again by itself after a transient failure or a lost worker."""


class Stage(StrEnum):
    PREPARING = "preparing"
    BASELINE = "baseline"
    PRUNING = "pruning"
    DISTILLING = "distilling"
    FINETUNING = "finetuning"
    QUANTIZING = "quantizing"
    EXPORTING = "exporting"
    EVALUATING = "evaluating"
    PROFILING = "profiling"
    PACKAGING = "packaging"


class EventType(StrEnum):
    STATE = "state"
    STAGE = "stage"
    PROGRESS = "progress"
    METRIC = "metric"
    LOG = "log"


class Event(BaseModel):
    """One thing that happened; ``id`` counts from 1 within its job without gaps."""

    id: int
    type: EventType
    at: datetime
    data: dict[str, Any]


class Objective(Exact):
    """What the user accepts to lose of a metric of which more is better, as an absolute difference."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Metric | None = Field(
        None,
        description="A metric of the task; null: its first. classification, token_classification: accuracy, "
        "top5_accuracy, macro_f1; multilabel: macro_f1, micro_f1, subset_accuracy; regression: r2; embedding: cosine, "
        "spearman; language_modelling: token_accuracy; segmentation: mean_iou, pixel_accuracy.",
    )
    max_drop: float = Field(ge=0, le=1)


Threads = Annotated[int, Field(ge=1, le=256)]


class LatencySpec(Exact):
    """Where latency is measured; the first of each is what the report's headline is of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1, max_length=8)] = (1,)
    threads: Threads | Annotated[tuple[Threads, ...], Field(min_length=1, max_length=4)] = Field(
        1, description="A number, or several: each batch size is measured with each of them."
    )

    @property
    def thread_counts(self) -> tuple[int, ...]:
        return (self.threads,) if isinstance(self.threads, int) else self.threads


TargetName = Literal["onnxruntime-cpu"]
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
"""No control characters: PostgreSQL keeps no NUL, and no name needs the others."""
NameText = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PRINTABLE)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=PRINTABLE)]


LabelKey = Annotated[
    Label, WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[^\x00-\x1f\x7f:]*$"})
]
"""Without a colon, which ends the key in a filter; ``check_labels`` holds new jobs to it, older ones may have one."""


def check_labels(labels: Iterable[str]) -> None:
    """Raise ValidationFailed with a pointer to each key that no filter could name."""
    errors = [
        FieldError(pointer=f"/labels/{key.replace('~', '~0').replace('/', '~1')}", message="A key has no colon in it.")
        for key in labels
        if ":" in key
    ]
    if errors:
        raise ValidationFailed("; ".join(f"{it.pointer}: {it.message}" for it in errors), errors=errors)


class JobSpec(Exact):
    """The body of ``POST /jobs``: stored with every default filled in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(max_length=200, pattern=PRINTABLE)] = ""
    model_id: str
    dataset_id: str
    recipe: Recipe
    task: LearningTask | None = Field(
        None,
        description="What the network learns; null: told by y and the model's first output. No y: embedding. Integers, "
        "one a row, for [batch, C]: classification. 0 and 1, C a row, for [batch, C]: multilabel. Floats of the "
        "output's shape: regression. Integers, L a row, for [batch, L, C]: token_classification. Integers, H by W a "
        "row, for [batch, C, H, W]: segmentation. Only where it is asked for: language_modelling, of y that says what "
        "each position must give or, without y, of the integer input, of which each position must give the next. "
        "Labels of -100, and positions where the input attention_mask or mask is 0, neither teach nor judge.",
    )
    target: TargetName = "onnxruntime-cpu"
    objective: Objective | None = None
    latency: LatencySpec = LatencySpec()
    queue: Literal["auto", "cpu", "gpu"] = "auto"
    priority: int = Field(5, ge=0, le=9, description="9 is served first.")
    seed: int = Field(0, ge=0, le=2**32 - 1)
    time_limit_seconds: int = Field(3600, ge=1, le=7 * 24 * 3600)
    labels: Annotated[dict[LabelKey, Label], Field(max_length=32)] = Field(default_factory=dict)
