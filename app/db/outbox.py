"""The outbox: messages written in the transaction of what they announce, published after it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session

from app.db.tables import JobRow, OutboxRow

RUN_JOB, INSPECT = "winnow.run_job", "winnow.inspect"


def add(
    session: Session, task: str, queue: str, priority: int, payload: dict[str, Any], *, after: timedelta = timedelta()
) -> None:
    """Write down a message, to be published after a while; ``priority`` 9 is served first."""
    now = datetime.now(UTC)
    row = OutboxRow(task=task, queue=queue, priority=priority, payload=payload, created_at=now, due_at=now + after)
    session.add(row)
    session.flush()


def add_job(session: Session, job: JobRow, *, after: timedelta = timedelta()) -> None:
    """Ask for a worker to run the attempt that the job is at."""
    add(session, RUN_JOB, job.queue, job.priority, {"job_id": job.id, "attempt": job.attempt}, after=after)


def take(session: Session, limit: int) -> Sequence[OutboxRow]:
    """Delete and return the oldest messages that are due.

    Publish them before the commit: when that fails, the rollback keeps them. A message may
    therefore be sent twice, which the claim makes harmless. Relays that run side by side
    skip each other's rows on PostgreSQL and wait for each other on SQLite.
    """
    due = select(OutboxRow).where(OutboxRow.due_at <= datetime.now(UTC)).order_by(OutboxRow.id)
    rows = session.scalars(due.limit(limit).with_for_update(skip_locked=True)).all()
    if rows:
        session.execute(
            delete(OutboxRow)
            .where(OutboxRow.id.in_([row.id for row in rows]))
            .execution_options(synchronize_session=False)
        )
        for row in rows:
            session.expunge(row)
    return rows


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(OutboxRow)) or 0


def any_due(session: Session) -> bool:
    return bool(session.scalar(select(exists().where(OutboxRow.due_at <= datetime.now(UTC)))))
