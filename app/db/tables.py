"""Every table. Lists are keyset-paged by id, so each filter has an index that ends in it."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

type_id = String(40)
type_word = String(40)
type_hex = String(64)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, also on SQLite, which forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The declarative base; constraints have names, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: UtcDateTime(), dict[str, Any]: JSON(none_as_null=True)}


def table_of(row: type[Base]) -> Table:
    """Give the table of a class, for statements that are not about objects and cost less for it."""
    table = row.__table__
    assert isinstance(table, Table)
    return table


class ProjectRow(Base):
    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class KeyRow(Base):
    __tablename__ = "api_keys"
    __table_args__ = (Index(None, "project_id", "id"),)

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    secret_sha256: Mapped[str] = mapped_column(type_hex)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditRow(Base):
    """Something that a key did, or an operator at the command line where ``key_id`` is null. Rows only come."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "project_id", "id"),)

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    at: Mapped[datetime]
    key_id: Mapped[str | None] = mapped_column(type_id)
    request_id: Mapped[str | None] = mapped_column(type_id)
    action: Mapped[str] = mapped_column(type_word)
    object_id: Mapped[str] = mapped_column(type_id)


class IdempotencyRow(Base):
    """A request with an ``Idempotency-Key``: in flight while ``status`` is null, then its answer.

    ``token`` tells whose record it is: a request whose lease ran out may have lost it to another. ``scopes`` are those
    of the key that made the request. ``expires_at`` is the end of the lease, then of the 24 hours.
    """

    __tablename__ = "idempotency"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    token: Mapped[str] = mapped_column(type_hex)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    fingerprint: Mapped[str | None] = mapped_column(type_hex)
    status: Mapped[int | None]
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class UsageRow(Base):
    """What a project has used, in running totals: jobs ever submitted, seconds on workers, bytes stored now."""

    __tablename__ = "usage"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger, default=0)
    cpu_seconds: Mapped[float] = mapped_column(default=0.0)
    gpu_seconds: Mapped[float] = mapped_column(default=0.0)
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class ContentRow(Base):
    """A content that is stored and counted, once however many objects refer to it."""

    __tablename__ = "contents"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(type_hex, primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)


class _Upload:
    """What uploaded models and data sets have in common; ``asked_at`` is when the inspection was last asked for."""

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(type_word)
    state: Mapped[str] = mapped_column(type_word)
    problem: Mapped[dict[str, Any] | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(type_hex)
    created_at: Mapped[datetime]
    asked_at: Mapped[datetime]
    facts: Mapped[dict[str, Any] | None]


class ModelRow(_Upload, Base):
    """``facts`` is ModelFacts without its layers, which may be many and stand apart."""

    __tablename__ = "models"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index(None, "project_id", "state", "id"),
        Index(None, "project_id", "sha256"),
    )

    layers: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True), deferred=True)
    origin: Mapped[dict[str, Any] | None]


class DatasetRow(_Upload, Base):
    __tablename__ = "datasets"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index(None, "project_id", "state", "id"),
        Index(None, "project_id", "sha256"),
    )

    preprocessing: Mapped[dict[str, Any] | None]


class UploadRow(Base):
    """A resumable upload that has not become a model or a data set yet.

    ``checking`` tells that a piece with a checksum is on its way, so that what stands behind ``offset_bytes`` is worth
    nothing. ``sha256`` is known once all bytes went through one process.
    """

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "project_id", "id"),)

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    offset_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    checking: Mapped[bool] = mapped_column(default=False)
    sha256: Mapped[str | None] = mapped_column(type_hex)
    details: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class UploadPieceRow(Base):
    """A piece of a resumable upload that an object store keeps as an object of its own."""

    __tablename__ = "upload_pieces"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(200))


class JobRow(Base):
    """``spec`` is the JobSpec with every default; ``last_event_id`` numbers the job's events.

    A job that runs is its worker's until ``lease_expires_at``. ``queued_at`` is when its message was
    last asked for, ``retries`` how often it was tried again by itself. ``trial`` is where it lies in the space of its
    sweep, which may have been deleted since.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "project_id", "id"),
        Index(None, "project_id", "state", "id"),
        Index(None, "project_id", "model_id", "id"),
        Index(None, "project_id", "sweep_id", "id"),
        Index(None, "model_id"),
        Index(None, "dataset_id"),
        Index(None, "queue", "state", "priority", "id"),
        Index(None, "state", "lease_expires_at"),
        Index(None, "state", "queued_at"),
    )

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    sweep_id: Mapped[str | None] = mapped_column(type_id)
    trial: Mapped[dict[str, Any] | None]
    spec: Mapped[dict[str, Any]]
    target: Mapped[str] = mapped_column(type_word)
    state: Mapped[str] = mapped_column(type_word)
    stage: Mapped[str | None] = mapped_column(type_word)
    progress: Mapped[float] = mapped_column(default=0.0)
    eta_seconds: Mapped[float | None]
    attempt: Mapped[int] = mapped_column(default=1)
    retries: Mapped[int] = mapped_column(default=0)
    queue: Mapped[str] = mapped_column(type_word)
    priority: Mapped[int]
    labels: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    lease_expires_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    worker: Mapped[str | None] = mapped_column(String(200))
    summary: Mapped[dict[str, Any] | None]
    failure: Mapped[dict[str, Any] | None]
    last_event_id: Mapped[int] = mapped_column(default=0)


class SweepRow(Base):
    """``spec`` is the SweepSpec with every default; ``launched`` counts its jobs, those deleted since too.

    ``refused`` holds, by the code of the refusal, how many draws made no job, and the first of them.
    """

    __tablename__ = "sweeps"
    __table_args__ = (Index(None, "project_id", "id"), Index(None, "project_id", "state", "id"), Index(None, "state"))

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    spec: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(type_word)
    launched: Mapped[int] = mapped_column(default=0)
    refused: Mapped[dict[str, Any] | None]
    best_job_id: Mapped[str | None] = mapped_column(type_id)
    failure: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class JobLabelRow(Base):
    """A job's labels once more, one a row, because a filter on a JSON column has no index."""

    __tablename__ = "job_labels"
    __table_args__ = (Index(None, "project_id", "key", "value", "job_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[str] = mapped_column(String(128))
    project_id: Mapped[str] = mapped_column(type_id)


class JobModelRow(Base):
    """A model that a job's recipe names beside its own; the row goes with either."""

    __tablename__ = "job_models"
    __table_args__ = (Index(None, "model_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)


class EventRow(Base):
    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(type_word)
    at: Mapped[datetime]
    data: Mapped[dict[str, Any]]


class ArtifactRow(Base):
    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("job_id", "name"), Index(None, "project_id", "sha256"))

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(type_word)
    format: Mapped[str] = mapped_column(type_word)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(type_hex)
    created_at: Mapped[datetime]


class WebhookRow(Base):
    """An address that is told of events.

    ``secret`` signs what is sent, and ``old_secret`` beside it until ``old_secret_until``. ``failing_since`` is the
    first attempt that failed since the last that did not.
    """

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "project_id", "id"),)

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(JSON)
    secret: Mapped[str] = mapped_column(type_hex)
    old_secret: Mapped[str | None] = mapped_column(type_hex)
    old_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]


class DeliveryRow(Base):
    """An event on its way to a webhook: to be tried at ``due_at``, null once it has ended.

    While an attempt is underway, ``due_at`` is when it counts as lost.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        Index(None, "webhook_id", "id"),
        Index(None, "webhook_id", "state", "id"),
        Index(None, "webhook_id", "due_at"),
    )

    id: Mapped[str] = mapped_column(type_id, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(type_word)
    body: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(type_word)
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    give_up_at: Mapped[datetime]
    attempted_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    response_status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(type_word)


class OutboxRow(Base):
    """A message to publish once its transaction is committed, and it is due. ``priority``: 9 is served first."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(Text)
    queue: Mapped[str] = mapped_column(type_word)
    priority: Mapped[int]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    due_at: Mapped[datetime] = mapped_column(index=True)


class WorkerRow(Base):
    """A worker that says it is alive; ``isolation`` names the sandbox it runs children in."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    queue: Mapped[str] = mapped_column(type_word)
    targets: Mapped[list[str]] = mapped_column(JSON)
    isolation: Mapped[str] = mapped_column(type_word)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(index=True)
