"""Events of jobs; they are written by ``app.db.jobs``, which owns their numbers."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import EventRow


def after(session: Session, job_id: str, event_id: int, *, limit: int, type_: str | None = None) -> Sequence[EventRow]:
    """Read the events that follow ``event_id``, oldest first."""
    query = select(EventRow).where(EventRow.job_id == job_id, EventRow.id > event_id)
    if type_ is not None:
        query = query.where(EventRow.type == type_)
    return session.scalars(query.order_by(EventRow.id).limit(limit)).all()
