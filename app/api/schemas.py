"""The bodies of responses; what is asked stands in ``app.domain``."""

from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.db.tables import ArtifactRow, EventRow, JobRow
from app.domain.errors import Failure
from app.domain.job import EventType, JobSpec, JobState, Stage
from app.domain.steps.step import StepSpec
from app.domain.steps.training import TrainingSpec
from app.domain.target import Target
from app.domain.task import ArtifactKind
from app.services.comparisons import Compared, judged_by
from app.services.jobs import JobView
from app.services.workers import ServedTarget

Item = TypeVar("Item")
Row = TypeVar("Row")
_id = attrgetter("id")


class Page(BaseModel, Generic[Item]):
    """One page of a list; ``next_cursor`` is null on the last."""

    items: list[Item]
    next_cursor: str | None

    @classmethod
    def of(cls, rows: Sequence[Row], limit: int, show: Callable[[Row], Item]) -> Self:
        """Show the first ``limit`` of rows, of which one more was asked for to tell whether there are others."""
        items = [show(row) for row in rows[:limit]]
        return cls(items=items, next_cursor=str(_id(items[-1])) if len(rows) > limit else None)


class Items(BaseModel, Generic[Item]):
    """A list that is short by its nature."""

    items: list[Item]


class MethodOut(BaseModel):
    """A method and all that a client needs to draw its form."""

    name: str
    help: str
    trains: bool
    defaults: dict[str, Any]
    schema_: dict[str, Any] = Field(serialization_alias="schema", description="JSON Schema of the step.")

    @classmethod
    def of(cls, name: str, spec: type[StepSpec]) -> Self:
        defaults = {
            field: info.default
            for field, info in spec.model_fields.items()
            if field != "method" and not info.is_required()
        }
        text = (spec.__doc__ or "").strip().partition("\n")[0]
        trains = issubclass(spec, TrainingSpec)
        return cls(name=name, help=text, trains=trains, defaults=defaults, schema_=spec.model_json_schema())


class TargetOut(Target):
    """``available`` says whether a live worker serves it, ``isolation`` in which kinds of sandbox."""

    available: bool
    isolation: list[str]

    @classmethod
    def of(cls, served: ServedTarget) -> Self:
        return cls(**served.target.model_dump(), available=served.available, isolation=list(served.isolation))


class JobOut(JobSpec):
    """What was asked, with every default, and how it stands."""

    model_config = ConfigDict(extra="ignore")

    id: str
    sweep_id: str | None
    state: JobState
    stage: Stage | None
    progress: float
    eta_seconds: float | None
    attempt: int
    queue_position: int | None = Field(description="Place in the queue, null once it has left it; 1000: that or later.")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    worker: str | None
    summary: dict[str, Any] | None
    failure: Failure | None

    @classmethod
    def of(cls, view: JobView) -> Self:
        row = view.row
        shown = {name: getattr(row, name) for name in cls.model_fields if name in JobRow.__mapper__.columns}
        return cls.model_validate({**shown, **row.spec, "queue": row.queue, "queue_position": view.queue_position})


class EventOut(BaseModel):
    """One thing that happened in a job."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    type: EventType
    at: datetime
    data: dict[str, Any]

    @classmethod
    def of(cls, row: EventRow) -> Self:
        return cls.model_validate(row)


class SigningKeyOut(BaseModel):
    """The key that signs manifests: the base64 of its 32 bytes, and their SHA-256 for people to compare."""

    algorithm: Literal["ed25519"] = "ed25519"
    public_key: str
    fingerprint: str


class ArtifactOut(BaseModel):
    """A file that a job left."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    job_id: str
    name: str
    kind: ArtifactKind
    format: str
    size_bytes: int
    sha256: str
    created_at: datetime

    @classmethod
    def of(cls, row: ArtifactRow) -> Self:
        return cls.model_validate(row)


class ComparedFigure(BaseModel):
    """A figure that decides who dominates whom."""

    name: str
    better: Literal["higher", "lower"]


class ComparedJob(BaseModel):
    """One row: ``figures`` is the job's summary, ``dominated_by`` the jobs that beat it."""

    job_id: str
    name: str
    state: JobState
    model_id: str
    dataset_id: str
    target: str
    figures: dict[str, Any]
    dominated: bool
    dominated_by: list[str]

    @classmethod
    def of(cls, compared: Compared) -> Self:
        columns = ("name", "state", "model_id", "dataset_id", "target")
        shown = {name: getattr(compared.row, name) for name in columns}
        beaten = list(compared.dominated_by)
        return cls(
            **shown, job_id=compared.row.id, figures=compared.figures, dominated=bool(beaten), dominated_by=beaten
        )


class ComparisonOut(Items[ComparedJob]):
    """Jobs in the order asked for, and the ids of those that none dominates."""

    figures: list[ComparedFigure]
    pareto_front: list[str]

    @classmethod
    def of(cls, compared: list[Compared]) -> Self:
        return cls(
            items=[ComparedJob.of(it) for it in compared],
            figures=[ComparedFigure(name=name, better=better) for name, better in judged_by(compared).items()],
            pareto_front=[it.row.id for it in compared if not it.dominated_by],
        )


class Health(BaseModel):
    status: Literal["alive", "ready"]
