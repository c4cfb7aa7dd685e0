"""What is looked at for all who wait at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db import events, inspections, jobs, sweeps
from app.db.tables import DatasetRow, EventRow, ModelRow
from app.domain.ids import Prefix
from app.domain.job import JobState

_AT_ONCE = 500


@dataclass(frozen=True)
class Mark:
    """How far an object is: its state, and the number of a job's last event."""

    state: str
    last_event_id: int = 0


GONE = Mark("gone")


def over(mark: Mark) -> bool:
    """Tell whether no event of the job is still to come."""
    return mark == GONE or JobState(mark.state).ended


def marks(session: Session, object_ids: Sequence[str]) -> dict[str, Mark]:
    """Read how far jobs, sweeps, models and data sets are, of whatever project; those that are gone are left out."""
    found: dict[str, Mark] = {}
    for start in range(0, len(object_ids), _AT_ONCE):
        ids = object_ids[start : start + _AT_ONCE]
        by_kind = {kind: [it for it in ids if it.startswith(f"{kind}_")] for kind in Prefix}
        if of_jobs := by_kind[Prefix.JOB]:
            found |= {name: Mark(state, last) for name, state, last in jobs.marks(session, of_jobs)}
        if of_sweeps := by_kind[Prefix.SWEEP]:
            found |= {name: Mark(state) for name, state in sweeps.states(session, of_sweeps)}
        for kind, table in ((Prefix.MODEL, ModelRow), (Prefix.DATASET, DatasetRow)):
            if of_kind := by_kind[kind]:
                found |= {name: Mark(state) for name, state in inspections.states(session, table, of_kind)}
    return found


def events_after(session: Session, job_id: str, event_id: int, *, limit: int) -> Sequence[EventRow]:
    return events.after(session, job_id, event_id, limit=limit)
