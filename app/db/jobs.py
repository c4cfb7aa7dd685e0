"""Jobs. Every write of a worker is fenced by the attempt it claimed, so a stale one changes nothing."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    Insert,
    Integer,
    Select,
    Update,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.orm import Session

from app.db import outbox, usage, webhooks
from app.db.paging import page
from app.db.places import MOST_COUNTED, counted_before, one_position
from app.db.tables import ArtifactRow, EventRow, JobLabelRow, JobModelRow, JobRow, OutboxRow, UsageRow, table_of
from app.domain.errors import Failure
from app.domain.job import MOST_RETRIES, TRANSITIONS, EventType, JobState

_UNSYNCHRONIZED = {"synchronize_session": False}
_RUNNING = (JobState.RUNNING, JobState.CANCELLING)


def add(session: Session, row: JobRow, now: datetime, others: Sequence[str] = ()) -> int | None:
    """Write down a new job, its labels, the ``others`` of its models beside its own, its first event and its message.

    Return its place in the queue. The row is told what it holds, and belongs to no session. On PostgreSQL all that each
    job has is one statement: whoever waits for the project's totals waits for no more than this and the commit.
    """
    row.state, row.last_event_id, row.queued_at = JobState.QUEUED, 1, now
    row.progress, row.retries = 0.0, 0
    values = {f"job_{column.name}": getattr(row, column.name) for column in JobRow.__table__.columns}
    values |= {"now": now, "event": {"state": row.state}, "message": {"job_id": row.id, "attempt": row.attempt}}
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        place = connection.scalar(_addition_at_once(), values)
    else:
        for statement in _addition():
            connection.execute(statement, values)
        place = connection.scalar(one_position(), {"queue": row.queue, "priority": row.priority, "id": row.id})
    if row.labels:
        labels = [{"job_id": row.id, "project_id": row.project_id, "key": k, "value": v} for k, v in row.labels.items()]
        connection.execute(insert(table_of(JobLabelRow)), labels)
    if others:
        named = [{"job_id": row.id, "model_id": model_id} for model_id in sorted(set(others))]
        connection.execute(insert(table_of(JobModelRow)), named)
    return None if place is None else min(int(place), MOST_COUNTED)


@cache
def _addition() -> tuple[Insert, Insert, Insert, Update]:
    """Say what is written for each new job: its row, its first event, its message, and one more in the totals."""
    job: dict[str, Any] = {column.name: bindparam(f"job_{column.name}") for column in JobRow.__table__.columns}
    event = {"job_id": job["id"], "id": 1, "type": EventType.STATE, "at": bindparam("now"), "data": bindparam("event")}
    message = {
        "task": outbox.RUN_JOB,
        "queue": bindparam("job_queue"),
        "priority": bindparam("job_priority"),
        "payload": bindparam("message"),
        "created_at": bindparam("now"),
        "due_at": bindparam("now"),
    }
    totals = table_of(UsageRow)
    return (
        insert(table_of(JobRow)).values(job),
        insert(table_of(EventRow)).values(event),
        insert(table_of(OutboxRow)).values(message),
        update(totals).where(totals.c.project_id == bindparam("job_project_id")).values(jobs=totals.c.jobs + 1),
    )


@cache
def _addition_at_once() -> Select[Any]:
    parts = [part.cte(f"part_{number}") for number, part in enumerate(_addition())]
    queued = and_(JobRow.queue == bindparam("job_queue"), JobRow.state == JobState.QUEUED)
    before, beside = counted_before(queued, bindparam("job_priority", type_=Integer), literal(value=True))
    # The statement does not see the row that it writes.
    return select(before + beside + 1).add_cte(*parts)


def get(session: Session, project_id: str, job_id: str) -> JobRow | None:
    """Get a job as it is now."""
    query = select(JobRow).where(JobRow.id == job_id, JobRow.project_id == project_id)
    return session.scalar(query.execution_options(populate_existing=True))


def get_several(session: Session, project_id: str, job_ids: Sequence[str]) -> Sequence[JobRow]:
    """Get those of the project's jobs that have one of these ids."""
    return session.scalars(select(JobRow).where(JobRow.project_id == project_id, JobRow.id.in_(job_ids))).all()


def listed(
    session: Session,
    project_id: str,
    *,
    state: str | None,
    model_id: str | None,
    sweep_id: str | None,
    label: tuple[str, str] | None,
    before: str | None,
    limit: int,
) -> Sequence[JobRow]:
    query = select(JobRow).where(JobRow.project_id == project_id)
    if state is not None:
        query = query.where(JobRow.state == state)
    if model_id is not None:
        query = query.where(JobRow.model_id == model_id)
    if sweep_id is not None:
        query = query.where(JobRow.sweep_id == sweep_id)
    if label is not None:
        key, value = label
        query = query.join(JobLabelRow, JobLabelRow.job_id == JobRow.id).where(
            JobLabelRow.project_id == project_id, JobLabelRow.key == key, JobLabelRow.value == value
        )
        # By the label's own column: its index holds the order, and what is newest is read first.
        return page(session, query, JobLabelRow.job_id, before=before, limit=limit)
    return page(session, query, JobRow.id, before=before, limit=limit)


def active(session: Session, project_id: str) -> Sequence[str]:
    """List the jobs of a project that have not ended."""
    states = [state for state in JobState if not state.ended]
    return session.scalars(select(JobRow.id).where(JobRow.project_id == project_id, JobRow.state.in_(states))).all()


def count_active(session: Session, project_id: str, *, at_most: int) -> int:
    """Count jobs that have not ended, no further than to a number."""
    active = [state for state in JobState if not state.ended]
    query = select(JobRow.id).where(JobRow.project_id == project_id, JobRow.state.in_(active)).limit(at_most)
    return session.scalar(select(func.count()).select_from(query.subquery())) or 0


def count_by_state(session: Session) -> dict[tuple[str, str], int]:
    """Count all jobs by queue and state."""
    rows = session.execute(select(JobRow.queue, JobRow.state, func.count()).group_by(JobRow.queue, JobRow.state))
    return {(queue, state): count for queue, state, count in rows}


def claim(
    session: Session, job_id: str, attempt: int, worker: str, now: datetime, lease_until: datetime
) -> JobRow | None:
    """Take a queued job until the lease runs out; null where another worker has it, or it was cancelled."""
    claimed = _change(
        session,
        and_(JobRow.id == job_id, JobRow.attempt == attempt, JobRow.state == JobState.QUEUED),
        {"state": JobState.RUNNING, "worker": worker, "started_at": now, "lease_expires_at": lease_until},
    )
    if claimed is None:
        return None
    session.add(_state_event(job_id, claimed, JobState.RUNNING, now))
    session.flush()
    return session.get(JobRow, job_id, populate_existing=True)


def renew(session: Session, job_id: str, attempt: int, lease_until: datetime) -> bool:
    """Keep a running job for longer; false where the attempt no longer holds it."""
    statement = update(JobRow).where(_held(job_id, attempt)).values(lease_expires_at=lease_until).returning(JobRow.id)
    return session.scalar(statement.execution_options(**_UNSYNCHRONIZED)) is not None


def append_event(
    session: Session, job_id: str, attempt: int, type_: EventType, data: dict[str, Any], now: datetime
) -> int | None:
    """Write down what a running attempt reports, and show its stage and progress on the job.

    Return the event's id; null where the attempt no longer holds the job.
    """
    values: dict[str, Any] = {}
    if type_ is EventType.STAGE:
        values["stage"] = data["stage"]
    elif type_ is EventType.PROGRESS:
        values["progress"] = data["fraction"]
        values["eta_seconds"] = data.get("eta_seconds")
    event_id = _change(session, _held(job_id, attempt), values)
    if event_id is None:
        return None
    session.add(EventRow(job_id=job_id, id=event_id, type=type_, at=now, data=data))
    session.flush()
    return event_id


def finish(
    session: Session,
    job_id: str,
    attempt: int,
    state: JobState,
    failure: Failure | None,
    summary: dict[str, Any] | None,
    now: datetime,
) -> bool:
    """End a running or cancelling attempt; false where it no longer holds the job or may not end so."""
    allowed = [origin for origin in _RUNNING if state.ended and state in TRANSITIONS[origin]]
    values: dict[str, Any] = {
        "state": state,
        "stage": None,
        "eta_seconds": None,
        "ended_at": now,
        "failure": failure.model_dump(mode="json") if failure else None,
        "summary": summary,
        "lease_expires_at": None,
    }
    if state is JobState.SUCCEEDED:
        values["progress"] = 1.0
    event_id = _change(session, and_(_held(job_id, attempt), JobRow.state.in_(allowed)), values)
    if event_id is None:
        return False
    session.add(_state_event(job_id, event_id, state, now))
    session.flush()
    webhooks.announce_job(session, job_id, state, now)
    usage.add_attempt(session, job_id, now)
    return True


def put_back(session: Session, job: JobRow, now: datetime) -> bool:
    """Queue a running attempt again, whose worker has to end; false where it may not or no longer holds the job.

    The attempt keeps its number, so the time at which it was claimed tells it from one that took it up since.
    """
    mine = and_(_held(job.id, job.attempt), JobRow.state == JobState.RUNNING, JobRow.started_at == job.started_at)
    return _ended_attempt(session, job.id, now, back=_queue_again(session, mine, job.id, now, {}, "interrupted"))


def try_again(
    session: Session, job_id: str, attempt: int, failure: Failure, now: datetime, *, after: timedelta = timedelta()
) -> bool:
    """Queue a job again, after a while, whose attempt met a transient failure.

    False where the attempt no longer holds it, it is being cancelled, or has been tried often enough.
    """
    condition = and_(_held(job_id, attempt), JobRow.state == JobState.RUNNING, JobRow.retries < MOST_RETRIES)
    values = {"attempt": attempt + 1, "retries": JobRow.retries + 1, "queued_at": now + after}
    return _ended_attempt(
        session, job_id, now, back=_queue_again(session, condition, job_id, now, values, failure.code)
    )


def retry(session: Session, job: JobRow, now: datetime) -> bool:
    """Queue a job again that did not succeed, as its user wishes; false where it is in another state."""
    condition = and_(
        JobRow.id == job.id,
        JobRow.attempt == job.attempt,
        JobRow.state.in_([state for state in JobState if state.ended and JobState.QUEUED in TRANSITIONS[state]]),
    )
    values = {"attempt": job.attempt + 1, "retries": 0, "ended_at": None, "failure": None, "summary": None}
    return _queue_again(session, condition, job.id, now, values, "retry")


def expired(session: Session, now: datetime, limit: int) -> Sequence[JobRow]:
    """Read and hold running and cancelling jobs whose lease has run out."""
    query = select(JobRow).where(JobRow.state.in_(_RUNNING), JobRow.lease_expires_at < now)
    query = query.order_by(JobRow.lease_expires_at).limit(limit).with_for_update(skip_locked=True)
    return session.scalars(query).all()


def end_leases(session: Session, host: str, now: datetime) -> None:
    """End the leases of all workers of a host, which are known to be gone."""
    theirs = and_(JobRow.state.in_(_RUNNING), JobRow.worker.endswith(f"@{host}", autoescape=True))
    session.execute(update(JobRow).where(theirs).values(lease_expires_at=now).execution_options(**_UNSYNCHRONIZED))


def waiting_since(session: Session, queue: str, before: datetime, limit: int) -> Sequence[JobRow]:
    """Read queued jobs whose message was to go out before a time."""
    query = select(JobRow).where(JobRow.queue == queue, JobRow.state == JobState.QUEUED, JobRow.queued_at < before)
    return session.scalars(query.order_by(JobRow.queued_at).limit(limit)).all()


def ask_again(session: Session, job: JobRow, now: datetime) -> bool:
    """Note that a queued job's message is asked for once more; false where another has done so, or it was claimed."""
    condition = and_(
        JobRow.id == job.id,
        JobRow.attempt == job.attempt,
        JobRow.state == JobState.QUEUED,
        JobRow.queued_at == job.queued_at,
    )
    statement = update(JobRow).where(condition).values(queued_at=now).returning(JobRow.id)
    return session.scalar(statement.execution_options(**_UNSYNCHRONIZED)) is not None


def cancel(session: Session, job_id: str, now: datetime) -> JobState | None:
    """End a queued job, or ask a running one to end; null where neither applies.

    A job that is already being cancelled stays so, without another event.
    """
    own = JobRow.id == job_id
    # In one statement, which waits for a worker that gives the job back meanwhile, and finds it queued then.
    queued = JobRow.state == JobState.QUEUED
    statement = (
        update(JobRow)
        .where(own, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)))
        .values(
            state=case((queued, JobState.CANCELLED), else_=JobState.CANCELLING),
            ended_at=case((queued, literal(now, JobRow.ended_at.type))),
            last_event_id=JobRow.last_event_id + 1,
        )
        .returning(JobRow.state, JobRow.last_event_id)
        .execution_options(**_UNSYNCHRONIZED)
    )
    changed = session.execute(statement).one_or_none()
    if changed is None:
        asked = session.scalar(select(exists().where(own, JobRow.state == JobState.CANCELLING)))
        return JobState.CANCELLING if asked else None
    state = JobState(changed.state)
    session.add(_state_event(job_id, changed.last_event_id, state, now))
    session.flush()
    if state.ended:
        webhooks.announce_job(session, job_id, state, now)
    return state


def state_of(session: Session, job_id: str, attempt: int) -> JobState | None:
    """Read the state that an attempt's job is in; null where another attempt has taken over."""
    state = session.scalar(select(JobRow.state).where(JobRow.id == job_id, JobRow.attempt == attempt))
    return JobState(state) if state is not None else None


def marks(session: Session, job_ids: Sequence[str]) -> list[tuple[str, str, int]]:
    """Read how far jobs are, of whatever project: each one's id, state and the number of its last event."""
    rows = session.execute(select(JobRow.id, JobRow.state, JobRow.last_event_id).where(JobRow.id.in_(job_ids)))
    return [(job_id, state, last) for job_id, state, last in rows]


def artifact_contents(session: Session, job_id: str) -> Sequence[str]:
    """Read the digests of what the job's artifacts hold."""
    return session.scalars(select(ArtifactRow.sha256).where(ArtifactRow.job_id == job_id).distinct()).all()


def delete(session: Session, row: JobRow) -> None:
    """Remove a job; its events, labels and artifacts go with it."""
    session.delete(row)
    session.flush()


def _held(job_id: str, attempt: int) -> Any:
    return and_(
        JobRow.id == job_id,
        JobRow.attempt == attempt,
        JobRow.state.in_(_RUNNING),
    )


def _change(session: Session, condition: Any, values: dict[str, Any]) -> int | None:
    """Change the one job that meets the condition; return the number of the event that tells of it."""
    statement = (
        update(JobRow)
        .where(condition)
        .values(last_event_id=JobRow.last_event_id + 1, **values)
        .returning(JobRow.last_event_id)
        .execution_options(**_UNSYNCHRONIZED)
    )
    return session.scalar(statement)


def _queue_again(
    session: Session, condition: Any, job_id: str, now: datetime, values: dict[str, Any], reason: str
) -> bool:
    again = {
        "state": JobState.QUEUED,
        "stage": None,
        "progress": 0.0,
        "eta_seconds": None,
        "worker": None,
        "lease_expires_at": None,
        "queued_at": now,
    }
    event_id = _change(session, condition, again | values)
    if event_id is None:
        return False
    session.add(_state_event(job_id, event_id, JobState.QUEUED, now, reason=reason))
    session.flush()
    return True


def _ended_attempt(session: Session, job_id: str, now: datetime, *, back: bool) -> bool:
    """Count the time of an attempt that is back in the queue."""
    if back:
        usage.add_attempt(session, job_id, now)
    return back


def _state_event(job_id: str, event_id: int, state: JobState, now: datetime, **why: str) -> EventRow:
    return EventRow(job_id=job_id, id=event_id, type=EventType.STATE, at=now, data={"state": state, **why})
