"""The bodies of responses; what is asked stands in ``app.domain``."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.db.tables import (
    ArtifactRow,
    AuditRow,
    DatasetRow,
    EventRow,
    JobRow,
    KeyRow,
    ModelRow,
    ProjectRow,
    SweepRow,
    UploadRow,
)
from app.domain.dataset import DatasetFacts, DatasetFormat, LabelFacts, Preprocessing, SplitFacts
from app.domain.errors import Failure
from app.domain.exact import Exact
from app.domain.job import PRINTABLE, EventType, JobSpec, JobState, Stage
from app.domain.model import Layer, ModelFormat, ObjectState, Signature, TensorSpec
from app.domain.recipe import Recipe
from app.domain.steps.step import StepSpec
from app.domain.steps.training import TrainingSpec
from app.domain.sweep import SweepSpec, SweepState
from app.domain.target import Target
from app.domain.task import ArtifactKind
from app.services.audit import Action
from app.services.callers import Scope
from app.services.comparisons import Compared, judged_by
from app.services.jobs import JobView
from app.services.keys import NewKey
from app.services.resumable import parse_details
from app.services.sweeps import SweepView
from app.services.workers import ServedTarget

Item = TypeVar("Item")
Row = TypeVar("Row")
_id = attrgetter("id")
NameText = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PRINTABLE)]


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


class _UploadOut(BaseModel):
    id: str
    name: str
    format: str
    state: ObjectState
    problem: Failure | None
    size_bytes: int
    sha256: str
    created_at: datetime


class Origin(BaseModel):
    """The job that made a model, and the model it was made from."""

    job_id: str
    model_id: str


class ModelOut(_UploadOut):
    """``trainable``, ``signature``, ``parameters`` and ``macs`` are null until the inspection found them."""

    trainable: bool | None
    signature: Signature | None
    parameters: int | None
    macs: int | None
    origin: Origin | None

    @classmethod
    def of(cls, row: ModelRow) -> Self:
        facts = row.facts or {}
        found = {name: facts.get(name) for name in ("trainable", "signature", "parameters", "macs")}
        return cls.model_validate({**_columns(row, _UploadOut), **found, "origin": row.origin})


class ModelFromArtifact(Exact):
    """A job's result that is to be a model of its own."""

    model_config = ConfigDict(extra="forbid")

    name: NameText
    artifact_id: str = Field(description="An artifact of the kind `model`, in a format that is taken for models.")


class ModelFromUpload(Exact):
    """A resumable upload that has come to its end and is to be a model."""

    model_config = ConfigDict(extra="forbid")

    name: NameText
    upload_id: str
    format: ModelFormat | None = Field(None, description="What the file must be.")


class DatasetFromUpload(Exact):
    """A resumable upload that has come to its end and is to be a data set."""

    model_config = ConfigDict(extra="forbid")

    name: NameText
    upload_id: str
    format: DatasetFormat | None = Field(None, description="What the file must be.")
    preprocessing: Preprocessing | None = Field(None, description="How images become rows.")


class UploadOut(BaseModel):
    """How far a resumable upload has come; ``metadata`` is what its client sent along."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    size_bytes: int
    offset_bytes: int
    metadata: dict[str, str]
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, row: UploadRow) -> Self:
        shown = {name: getattr(row, name) for name in cls.model_fields if name != "metadata"}
        return cls(**shown, metadata=parse_details(row.details))


class LayersOut(Items[Layer]):
    """Every layer with weights, in the order of execution."""


class DatasetOut(_UploadOut):
    """``splits``, ``fields``, ``classes``, ``class_names`` and ``labels`` are empty until the inspection found them."""

    splits: dict[str, SplitFacts]
    fields_: tuple[TensorSpec, ...] = Field(serialization_alias="fields")
    classes: int | None
    class_names: tuple[str, ...] | None
    labels: LabelFacts | None
    preprocessing: Preprocessing | None

    @classmethod
    def of(cls, row: DatasetRow) -> Self:
        facts = DatasetFacts.model_validate(row.facts) if row.facts else None
        return cls.model_validate(
            {
                **_columns(row, _UploadOut),
                "splits": facts.splits if facts else {},
                "fields_": facts.fields if facts else (),
                "classes": facts.classes if facts else None,
                "class_names": facts.class_names if facts else None,
                "labels": facts.labels if facts else None,
                "preprocessing": row.preprocessing,
            }
        )


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


def _ahead(time: datetime) -> datetime:
    try:
        time = time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("There is no such time in UTC.") from error
    if time <= datetime.now(UTC):
        raise ValueError("A key cannot expire before it is made.")
    return time


class KeyIn(Exact):
    """What a new key may do, and until when; ``project_id`` is the operator's to give."""

    model_config = ConfigDict(extra="forbid")

    name: NameText
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)] = ["read", "write"]  # noqa: RUF012  pydantic copies it
    expires_at: Annotated[AwareDatetime, AfterValidator(_ahead)] | None = None
    project_id: str | None = None


class KeyOut(BaseModel):
    """A key without its text."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    project_id: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, row: KeyRow) -> Self:
        return cls.model_validate(row)


_TEXT = Field(description="The whole key, shown this once: what goes behind `Bearer`. Null in a replay.")


class KeyMade(KeyOut):
    """A key with its text."""

    key: str | None = _TEXT

    @classmethod
    def with_text(cls, made: NewKey) -> Self:
        return cls(**KeyOut.of(made.row).model_dump(), key=made.text)


class ProjectIn(Exact):
    model_config = ConfigDict(extra="forbid")

    name: NameText


class ProjectOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of(cls, row: ProjectRow) -> Self:
        return cls.model_validate(row)


class ProjectMade(ProjectOut):
    """A project with the text of its first key, whose scopes are all."""

    key: str | None = _TEXT

    @classmethod
    def with_text(cls, row: ProjectRow, made: NewKey) -> Self:
        return cls(**ProjectOut.of(row).model_dump(), key=made.text)


class AuditOut(BaseModel):
    """Something that was done; ``key_id`` is null where it was at the server's own command line."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    at: datetime
    key_id: str | None
    request_id: str | None
    action: Action
    object_id: str

    @classmethod
    def of(cls, row: AuditRow) -> Self:
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


class SweepOut(SweepSpec):
    """What was asked, with every default, and how it stands. ``launched`` counts the jobs started."""

    model_config = ConfigDict(extra="ignore")

    id: str
    state: SweepState
    launched: int
    best_job_id: str | None
    failure: Failure | None
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, row: SweepRow) -> Self:
        names = ("id", "state", "launched", "best_job_id", "failure", "created_at", "ended_at")
        return cls.model_validate({**row.spec, **{name: getattr(row, name) for name in names}})


class TrialOut(BaseModel):
    """A job of a sweep; ``figures`` is its summary."""

    number: int
    job_id: str
    state: JobState
    recipe: Recipe
    figures: dict[str, Any] | None
    failure: Failure | None

    @classmethod
    def of(cls, row: JobRow) -> Self:
        return cls(
            number=(row.trial or {})["number"],
            job_id=row.id,
            state=JobState(row.state),
            recipe=row.spec["recipe"],
            figures=row.summary,
            failure=None if row.failure is None else Failure.model_validate(row.failure),
        )


class SweepWhole(SweepOut):
    """A sweep with its trials, and the jobs of which none is beaten in metric, median latency and size by another."""

    pareto_front: list[str]
    trials: list[TrialOut]

    @classmethod
    def whole(cls, view: SweepView) -> Self:
        shown = SweepOut.of(view.row).model_dump(by_alias=True)
        trials = [TrialOut.of(row) for row in view.trials]
        return cls.model_validate({**shown, "pareto_front": list(view.pareto_front), "trials": trials})


class UsageOut(BaseModel):
    """Jobs ever submitted, seconds that their attempts were on workers, and bytes stored now.

    An attempt counts when it ends, by the clock, as one second a second however many cores it has. A content counts
    once however many models, data sets and artifacts hold it.
    """

    model_config = ConfigDict(from_attributes=True)

    jobs: int
    cpu_seconds: float
    gpu_seconds: float
    stored_bytes: int


class Health(BaseModel):
    status: Literal["alive", "ready"]


def _columns(row: ModelRow | DatasetRow, schema: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in schema.model_fields}
