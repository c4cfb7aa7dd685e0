"""Workers that say they are alive."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.tables import WorkerRow


def seen(
    session: Session, worker_id: str, *, queue: str, targets: Sequence[str], isolation: str, now: datetime
) -> None:
    """Write down that a worker is alive, at its start and every so often."""
    row = session.get(WorkerRow, worker_id)
    if row is None:
        row = WorkerRow(id=worker_id, started_at=now)
        session.add(row)
    row.queue, row.targets, row.isolation, row.seen_at = queue, list(targets), isolation, now
    session.flush()


def gone(session: Session, worker_id: str) -> None:
    session.execute(delete(WorkerRow).where(WorkerRow.id == worker_id))


def live(session: Session, since: datetime) -> Sequence[WorkerRow]:
    return session.scalars(select(WorkerRow).where(WorkerRow.seen_at >= since)).all()
