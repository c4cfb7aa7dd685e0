"""The outbox: messages written in the transaction of what they announce, published after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import bindparam, delete, exists, func, select
from sqlalchemy.orm import Session

from app.db.tables import JobRow, OutboxRow, table_of

RUN_JOB, INSPECT = "winnow.run_job", "winnow.inspect"


@dataclass(frozen=True)
class Message:
    """What a row of the outbox says."""

    id: int
    task: str
    queue: str
    priority: int
    payload: dict[str, Any]


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


def take(session: Session, limit: int) -> Sequence[Message]:
    """Delete and return the oldest messages that are due.

    Publish them before the commit: when that fails, the rollback keeps them. A message may
    therefore be sent twice, which the claim makes harmless. Relays that run side by side
    skip each other's rows on PostgreSQL and wait for each other on SQLite.
    """
    rows = session.connection().execute(_taking(), {"now": datetime.now(UTC), "limit": limit})
    return sorted((Message(*row) for row in rows), key=attrgetter("id"))


@cache
def _taking() -> Any:
    table = table_of(OutboxRow)
    due = select(table.c.id).where(table.c.due_at <= bindparam("now")).order_by(table.c.id).limit(bindparam("limit"))
    # By a name of its own it is read once, whatever the plan.
    taken = select(due.with_for_update(skip_locked=True).cte("due").c.id)
    columns = (table.c.id, table.c.task, table.c.queue, table.c.priority, table.c.payload)
    return delete(table).where(table.c.id.in_(taken)).returning(*columns)


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(OutboxRow)) or 0


def any_due(session: Session) -> bool:
    return bool(session.scalar(select(exists().where(OutboxRow.due_at <= datetime.now(UTC)))))
