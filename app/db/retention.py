"""What has been kept for long enough."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import exists, or_, select, update
from sqlalchemy.orm import Session

from app.db.inspections import Table, Upload
from app.db.tables import ArtifactRow, EventRow, JobModelRow, JobRow, ModelRow
from app.domain.errors import Failure
from app.domain.job import EventType
from app.domain.model import ObjectState


def artifacts(session: Session, kind: str, before: datetime, limit: int) -> Sequence[ArtifactRow]:
    """Read artifacts of a kind whose jobs ended before a time."""
    query = select(ArtifactRow).join(JobRow, JobRow.id == ArtifactRow.job_id)
    query = query.where(ArtifactRow.kind == kind, JobRow.ended_at < before)
    return session.scalars(query.order_by(ArtifactRow.id).limit(limit)).all()


def blank_log(session: Session, job_id: str) -> None:
    """Empty the lines of a job's log; the events stay, so that their numbers have no gap."""
    lines = update(EventRow).where(EventRow.job_id == job_id, EventRow.type == EventType.LOG)
    blank = {"level": "info", "message": "(expired)"}
    session.execute(lines.values(data=blank).execution_options(synchronize_session=False))


def inputs(session: Session, table: Table, before: datetime, limit: int) -> Sequence[Upload]:
    """Read uploads that jobs have used, all of which ended before a time."""
    asked = JobRow.dataset_id == table.id
    if table is ModelRow:
        named = exists().where(JobModelRow.job_id == JobRow.id, JobModelRow.model_id == table.id)
        asked = or_(JobRow.model_id == table.id, named.correlate(JobRow, table))
    used = exists().where(asked)
    needed = exists().where(asked, or_(JobRow.ended_at.is_(None), JobRow.ended_at >= before))
    query = select(table).where(table.state == ObjectState.READY, used, ~needed)
    return cast("Sequence[Upload]", session.scalars(query.order_by(table.id).limit(limit)).all())


def expire_input(session: Session, row: Upload, problem: Failure) -> None:
    """Make an upload one that no job can use any more; its content is the caller's to release."""
    row.state, row.problem = ObjectState.REJECTED, problem.model_dump(mode="json")
    session.flush()
