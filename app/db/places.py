"""Places in the queue: how many queued jobs are served before one."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import CompoundSelect, Integer, Select, and_, bindparam, exists, func, literal, select, union_all
from sqlalchemy.orm import Session

from app.db.tables import JobRow
from app.domain.job import JobState

MOST_COUNTED = 1000


def queue_positions(session: Session, rows: Sequence[JobRow]) -> dict[str, int]:
    """Tell how many queued jobs are served up to each of these that are queued, itself included, in one query.

    It counts no further than to MOST_COUNTED, which stands for so many and more: a long queue costs what a short does.
    A job that has left the queue since its row was read has no place.
    """
    queued = [row for row in rows if row.state == JobState.QUEUED]
    if not queued:
        return {}
    if len(queued) == 1:
        place = _position(session, queued[0])
        return {} if place is None else {queued[0].id: place}
    levels = sorted({(row.queue, row.priority) for row in queued})
    values: dict[str, Any] = {"ids": [row.id for row in queued]}
    for number, (queue, priority) in enumerate(levels):
        values |= {f"queue_{number}": queue, f"priority_{number}": priority}
    known: dict[str, int] = {}
    for job_id, place in session.execute(_positions(len(levels)), values):
        known[job_id] = min(known.get(job_id, MOST_COUNTED), int(place))
    return known


def _position(session: Session, row: JobRow) -> int | None:
    """Count the jobs up to one alone, which takes less than to number them; null where it is not queued any more."""
    values = {"queue": row.queue, "priority": row.priority, "id": row.id}
    place = session.scalar(one_position(), values)
    return None if place is None else min(place, MOST_COUNTED)


@cache
def one_position() -> Select[Any]:
    queued = and_(JobRow.queue == bindparam("queue"), JobRow.state == JobState.QUEUED)
    before, beside = counted_before(queued, bindparam("priority", type_=Integer), JobRow.id <= bindparam("id"))
    own = exists().where(JobRow.id == bindparam("id"), JobRow.state == JobState.QUEUED)
    return select(before + beside).where(own)


def counted_before(queued: Any, priority: Any, earlier: Any) -> list[Any]:
    """Count, up to MOST_COUNTED each, the queued jobs of a higher priority, and the earlier ones of the same."""
    parts = (JobRow.priority > priority, and_(JobRow.priority == priority, earlier))
    counts = [select(literal(1)).where(queued, part).limit(MOST_COUNTED).subquery() for part in parts]
    return [select(func.count()).select_from(it).scalar_subquery() for it in counts]


@cache
def _positions(levels: int) -> CompoundSelect[Any]:
    """Number the jobs of so many priorities of queues, each behind those of its queue that go before all of them.

    Whichever is queued has a row more, of the last place that is counted to: it may stand beyond it.
    """
    branches: list[Any] = []
    for number in range(levels):
        priority = bindparam(f"priority_{number}", type_=Integer)
        queued = and_(JobRow.queue == bindparam(f"queue_{number}"), JobRow.state == JobState.QUEUED)
        before = select(JobRow.id).where(queued, JobRow.priority > priority).limit(MOST_COUNTED).subquery()
        ahead = select(func.count()).select_from(before).scalar_subquery().label("ahead")
        level = select(JobRow.id).where(queued, JobRow.priority == priority)
        first = level.order_by(JobRow.id).limit(MOST_COUNTED).subquery()
        branches.append(select(first.c.id, ahead, func.row_number().over(order_by=first.c.id).label("place")))
    asked: Any = bindparam("ids", expanding=True)
    places = union_all(*branches).subquery()
    counted = select(places.c.id, places.c.ahead + places.c.place).where(places.c.id.in_(asked))
    # By the ids alone: SQLite would rather read all that is queued, by the index of states.
    state = func.coalesce(JobRow.state, "")
    still = select(JobRow.id, literal(MOST_COUNTED)).where(JobRow.id.in_(asked), state == JobState.QUEUED)
    return union_all(counted, still)
