"""Jobs: submitted, followed, cancelled and removed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db import artifacts, events, inspections, jobs, outbox, places, projects
from app.db.engine import Sessions
from app.db.tables import EventRow, JobRow
from app.domain import compatibility
from app.domain.errors import Conflict, FieldError, JobEnded, NotFound, NotReady
from app.domain.ids import Prefix, is_id, new_id
from app.domain.job import EventType, JobSpec, JobState
from app.domain.model import ObjectState
from app.services import audit, contents, facts, limits, sensitivity, trials
from app.services.callers import Caller, hold_open
from app.storage import Storage

FIRST_ATTEMPT = 1


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
    # Either keeps the models and the data set from being deleted between the check and the insert; who counts is alone.
    hold_open(session, project_id, shared=limit is None)
    check(session, project_id, spec)
    limits.check_jobs(session, project_id, limit)
    now = datetime.now(UTC)
    row = JobRow(
        id=new_id(Prefix.JOB),
        project_id=project_id,
        name=spec.name,
        model_id=spec.model_id,
        dataset_id=spec.dataset_id,
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
    place = jobs.add(session, row, now, [name for step in spec.recipe for name in step.models.values()])
    return JobView(row, place)


def check(session: Session, project_id: str, spec: JobSpec, *, ready: set[str] | None = None) -> None:
    """Raise why a job could only fail, from the facts of its model, its data set and the models that it names.

    ``ready`` are those that were found ready in this transaction, which holds the project, and is told of more.
    """
    ready = set() if ready is None else ready
    named = {name for step in spec.recipe for name in step.models.values()}
    if not ready.issuperset(asked := {spec.model_id, spec.dataset_id, *named}):
        require_ready(session, project_id, spec)
        ready |= asked
    rows = facts.of_dataset(session, spec.dataset_id)
    others = {name: facts.of_model(session, name) for name in named}
    compatibility.check(spec, facts.of_model(session, spec.model_id), rows, others)
    sensitivity.check(session, project_id, spec, rows)


def require_ready(session: Session, project_id: str, spec: JobSpec) -> None:
    """Raise NotFound or NotReady, with a pointer to the field, unless all that a job names is ready in the project."""
    asked = [("/model_id", Prefix.MODEL, spec.model_id), ("/dataset_id", Prefix.DATASET, spec.dataset_id)]
    for position, step in enumerate(spec.recipe):
        asked += [(f"/recipe/{position}/{field}", Prefix.MODEL, name) for field, name in step.models.items()]
    # What is no id may hold signs that no database takes.
    model_id, dataset_id, *others = (name if is_id(prefix, name) else "" for _, prefix, name in asked)
    states = inspections.states_of_inputs(session, project_id, model_id, dataset_id, others)
    for pointer, prefix, name in asked:
        what = "data set" if prefix is Prefix.DATASET else "model"
        _require_ready(states.get(name), pointer, f"{what} {name!r}")


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
    positions = places.queue_positions(session, rows)
    return [JobView(row, positions.get(row.id)) for row in rows]


def cancel(session: Session, by: Caller, job_id: str) -> JobView:
    """End a queued job at once, or ask a running one to end. Raises JobEnded."""
    find(session, by.project_id, job_id)
    asked = jobs.cancel(session, job_id, datetime.now(UTC))
    # As it is now: one that has ended may have been deleted meanwhile.
    row = find(session, by.project_id, job_id)
    if asked is None:
        raise JobEnded(f"The job has already ended: it is {row.state}.")
    audit.record(session, by, "job.cancelled", row.id, project_id=row.project_id)
    return _view(session, row)


def retry(
    sessions: Sessions,
    storage: Storage,
    project_id: str,
    job_id: str,
    tell: Callable[[Session, JobView], None],
    *,
    limit: int | None = None,
) -> None:
    """Queue a job again that failed, was cancelled or ran out of time; it goes on from its last checkpoint.

    What else the earlier attempts left goes. ``tell`` is called in the transaction. Raises Conflict or NotReady.
    """
    with sessions.begin() as session:
        hold_open(session, project_id)
        row = find(session, project_id, job_id)
        require_ready(session, project_id, JobSpec.model_validate(row.spec))
        limits.check_jobs(session, project_id, limit)
        if not jobs.retry(session, row, datetime.now(UTC)):
            raise Conflict(f"The job is {row.state}.", hint="Only a job that ended without success can be tried again.")
        session.refresh(row)
        outbox.add_job(session, row)
        spare = [artifact for artifact in artifacts.of_job(session, row.id) if artifact.kind != "checkpoint"]
        for artifact in spare:
            artifacts.delete(session, artifact)
        tell(session, _view(session, row))
    for artifact in spare:
        contents.release(sessions, storage, project_id, artifact.sha256)


def remove(sessions: Sessions, storage: Storage, by: Caller, job_id: str) -> None:
    """Delete an ended job with its events and artifacts, and what only it kept."""
    with sessions.begin() as session:
        projects.lock(session, by.project_id)
        row = find(session, by.project_id, job_id)
        if not JobState(row.state).ended:
            raise Conflict(f"The job is {row.state}.", hint="Cancel it first.")
        digests = jobs.artifact_contents(session, row.id)
        jobs.delete(session, row)
        if row.sweep_id is not None:
            trials.let_go(session, by.project_id, row.sweep_id, row.id)
        audit.record(session, by, "job.deleted", row.id, project_id=row.project_id)
    for digest in digests:
        contents.release(sessions, storage, by.project_id, digest)


def events_after(
    session: Session, job_id: str, event_id: int, *, limit: int, type_: EventType | None = None
) -> Sequence[EventRow]:
    return events.after(session, job_id, event_id, limit=limit, type_=type_)


def _view(session: Session, row: JobRow) -> JobView:
    return JobView(row, places.queue_positions(session, [row]).get(row.id))


def _require_ready(state: str | None, pointer: str, what: str) -> None:
    if state is None:
        message = f"There is no {what}."
        raise NotFound(message, errors=[FieldError(pointer=pointer, message=message)])
    if state != ObjectState.READY:
        message = f"The {what} is {state}."
        raise NotReady(message, errors=[FieldError(pointer=pointer, message=message)])
