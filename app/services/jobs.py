"""Jobs: submitted, followed, cancelled and removed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from app.db import artifacts, datasets, events, jobs, models, outbox, projects
from app.db.engine import Sessions
from app.db.tables import DatasetRow, EventRow, JobRow, ModelRow
from app.domain import compatibility
from app.domain.dataset import DatasetFacts
from app.domain.errors import Conflict, FieldError, JobEnded, NotFound, NotReady
from app.domain.ids import Prefix, is_id, new_id
from app.domain.job import EventType, JobSpec, JobState
from app.domain.model import ModelFacts, ObjectState
from app.services import audit, contents, limits, sensitivity
from app.services.callers import Caller
from app.storage import Storage

FIRST_ATTEMPT = 1
Row = TypeVar("Row", ModelRow, DatasetRow)


@dataclass(frozen=True)
class JobView:
    """A job and its place in the queue, counted to a thousand; null once it has left it."""

    row: JobRow
    queue_position: int | None


@dataclass(frozen=True)
class Trial:
    """Which sweep a job belongs to, and where it lies in the space of that."""

    sweep_id: str
    place: dict[str, Any]


def submit(
    session: Session, project_id: str, spec: JobSpec, *, limit: int | None = None, trial: Trial | None = None
) -> JobView:
    """Queue a job that can succeed; the job, its first event and its message share one transaction."""
    # The lock keeps the model and the data set from being deleted between the check and the insert.
    projects.lock(session, project_id)
    model, dataset, others = check(session, project_id, spec)
    limits.check_jobs(session, project_id, limit)
    now = datetime.now(UTC)
    row = JobRow(
        id=new_id(Prefix.JOB),
        project_id=project_id,
        name=spec.name,
        model_id=model.id,
        dataset_id=dataset.id,
        sweep_id=trial.sweep_id if trial else None,
        trial=trial.place if trial else None,
        spec=spec.model_dump(mode="json"),
        target=spec.target,
        attempt=FIRST_ATTEMPT,
        queue="cpu" if spec.queue == "auto" else spec.queue,
        priority=spec.priority,
        labels=spec.labels,
        created_at=now,
    )
    jobs.add(session, row, now, [other.id for other in others])
    outbox.add_job(session, row)
    return _view(session, row)


def check(session: Session, project_id: str, spec: JobSpec) -> tuple[ModelRow, DatasetRow, list[ModelRow]]:
    """Get the model, the data set and the other models of a job that can succeed; raise why it could only fail."""
    model = models.get_with_layers(session, project_id, spec.model_id) if is_id(Prefix.MODEL, spec.model_id) else None
    dataset = datasets.get(session, project_id, spec.dataset_id) if is_id(Prefix.DATASET, spec.dataset_id) else None
    model = _ready(model, "/model_id", f"model {spec.model_id!r}")
    dataset = _ready(dataset, "/dataset_id", f"data set {spec.dataset_id!r}")
    rows = DatasetFacts.model_validate(dataset.facts)
    others = _named(session, project_id, spec)
    compatibility.check(spec, _facts(model), rows, {row.id: _facts(row) for row in others})
    sensitivity.check(session, project_id, spec, rows)
    return model, dataset, others


def get(session: Session, project_id: str, job_id: str) -> JobView:
    return _view(session, find(session, project_id, job_id))


def find(session: Session, project_id: str, job_id: str) -> JobRow:
    """Get the row of a job of this project. Raises NotFound."""
    row = jobs.get(session, project_id, job_id) if is_id(Prefix.JOB, job_id) else None
    if row is None:
        raise NotFound(f"There is no job {job_id!r}.")
    return row


def list_page(
    session: Session,
    project_id: str,
    *,
    state: JobState | None,
    model_id: str | None,
    sweep_id: str | None,
    label: tuple[str, str] | None,
    before: str | None,
    limit: int,
) -> Sequence[JobView]:
    rows = jobs.listed(
        session,
        project_id,
        state=state,
        model_id=model_id,
        sweep_id=sweep_id,
        label=label,
        before=before,
        limit=limit,
    )
    positions = jobs.queue_positions(session, rows)
    return [JobView(row, positions.get(row.id)) for row in rows]


def cancel(session: Session, by: Caller, job_id: str) -> JobView:
    """End a queued job at once, or ask a running one to end. Raises JobEnded."""
    row = find(session, by.project_id, job_id)
    if jobs.cancel(session, row.id, datetime.now(UTC)) is None:
        session.refresh(row)
        raise JobEnded(f"The job has already ended: it is {row.state}.")
    audit.record(session, by, "job.cancelled", row.id, project_id=row.project_id)
    session.refresh(row)
    return _view(session, row)


def retry(sessions: Sessions, storage: Storage, project_id: str, job_id: str, *, limit: int | None = None) -> JobView:
    """Queue a job again that failed, was cancelled or ran out of time; it goes on from its last checkpoint.

    What else the earlier attempts left goes. Raises Conflict or NotReady.
    """
    with sessions.begin() as session:
        projects.lock(session, project_id)
        row = find(session, project_id, job_id)
        _ready(models.get(session, project_id, row.model_id), "/model_id", f"model {row.model_id!r}")
        _ready(datasets.get(session, project_id, row.dataset_id), "/dataset_id", f"data set {row.dataset_id!r}")
        _named(session, project_id, JobSpec.model_validate(row.spec))
        limits.check_jobs(session, project_id, limit)
        if not jobs.retry(session, row, datetime.now(UTC)):
            raise Conflict(f"The job is {row.state}.", hint="Only a job that ended without success can be tried again.")
        session.refresh(row)
        outbox.add_job(session, row)
        spare = [artifact for artifact in artifacts.of_job(session, row.id) if artifact.kind != "checkpoint"]
        for artifact in spare:
            artifacts.delete(session, artifact)
        view = _view(session, row)
    for artifact in spare:
        contents.release(sessions, storage, project_id, artifact.sha256)
    return view


def remove(sessions: Sessions, storage: Storage, by: Caller, job_id: str) -> None:
    """Delete an ended job with its events and artifacts, and what only it kept."""
    with sessions.begin() as session:
        projects.lock(session, by.project_id)
        row = find(session, by.project_id, job_id)
        if not JobState(row.state).ended:
            raise Conflict(f"The job is {row.state}.", hint="Cancel it first.")
        digests = jobs.artifact_contents(session, row.id)
        jobs.delete(session, row)
        audit.record(session, by, "job.deleted", row.id, project_id=row.project_id)
    for digest in digests:
        contents.release(sessions, storage, by.project_id, digest)


def events_after(
    session: Session, job_id: str, event_id: int, *, limit: int, type_: EventType | None = None
) -> Sequence[EventRow]:
    return events.after(session, job_id, event_id, limit=limit, type_=type_)


def _named(session: Session, project_id: str, spec: JobSpec) -> list[ModelRow]:
    """Get the models that the recipe names. Raises NotFound or NotReady with a pointer to the field."""
    found = {}
    for position, step in enumerate(spec.recipe):
        for field, model_id in step.models.items():
            row = models.get_with_layers(session, project_id, model_id) if is_id(Prefix.MODEL, model_id) else None
            found[model_id] = _ready(row, f"/recipe/{position}/{field}", f"model {model_id!r}")
    return list(found.values())


def _facts(model: ModelRow) -> ModelFacts:
    return ModelFacts.model_validate({**(model.facts or {}), "layers": model.layers})


def _view(session: Session, row: JobRow) -> JobView:
    return JobView(row, jobs.queue_positions(session, [row]).get(row.id))


def _ready(row: Row | None, pointer: str, what: str) -> Row:
    if row is None:
        message = f"There is no {what}."
        raise NotFound(message, errors=[FieldError(pointer=pointer, message=message)])
    if row.state != ObjectState.READY:
        message = f"The {what} is {row.state}."
        raise NotReady(message, errors=[FieldError(pointer=pointer, message=message)])
    return row
