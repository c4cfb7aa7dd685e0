"""What projects use, in running totals.

The row of a project is always the last that a transaction takes: whoever holds it waits for nobody.
"""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.tables import JobRow, UsageRow


def get(session: Session, project_id: str) -> UsageRow:
    return session.get_one(UsageRow, project_id, populate_existing=True)


def stored_bytes(session: Session, project_id: str) -> int:
    return session.scalars(select(UsageRow.stored_bytes).where(UsageRow.project_id == project_id)).one()


def add(
    session: Session,
    project_id: str,
    *,
    jobs: int = 0,
    cpu_seconds: float = 0,
    gpu_seconds: float = 0,
    stored_bytes: int = 0,
) -> None:
    """Add to the totals of a project."""
    statement = update(UsageRow).where(UsageRow.project_id == project_id)
    statement = statement.values(
        jobs=UsageRow.jobs + jobs,
        cpu_seconds=UsageRow.cpu_seconds + cpu_seconds,
        gpu_seconds=UsageRow.gpu_seconds + gpu_seconds,
        stored_bytes=UsageRow.stored_bytes + stored_bytes,
    )
    session.execute(statement.execution_options(synchronize_session=False))


def add_attempt(session: Session, job_id: str, now: datetime) -> None:
    """Add the time that the job's attempt, which ends now, was on a worker."""
    query = select(JobRow.project_id, JobRow.queue, JobRow.started_at).where(JobRow.id == job_id)
    project_id, queue, started_at = session.execute(query).one()
    seconds = max(0.0, (now - started_at).total_seconds()) if started_at is not None else 0.0
    if queue == "gpu":
        add(session, project_id, gpu_seconds=seconds)
    else:
        add(session, project_id, cpu_seconds=seconds)
