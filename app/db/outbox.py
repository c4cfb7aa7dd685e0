"""The outbox: messages written in the transaction of what they announce, published after it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db.tables import OutboxRow


def add(session: Session, task: str, queue: str, priority: int, payload: dict[str, Any]) -> None:
    """Write down a message; ``priority`` 9 is served first."""
    row = OutboxRow(task=task, queue=queue, priority=priority, payload=payload, created_at=datetime.now(UTC))
    session.add(row)
    session.flush()


def take(session: Session, limit: int) -> Sequence[OutboxRow]:
    """Delete and return the oldest messages.

    Publish them before the commit: when that fails, the rollback keeps them. A message may
    therefore be sent twice, which the claim makes harmless. Relays that run side by side
    skip each other's rows on PostgreSQL and wait for each other on SQLite.
    """
    query = select(OutboxRow).order_by(OutboxRow.id).limit(limit).with_for_update(skip_locked=True)
    rows = session.scalars(query).all()
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
