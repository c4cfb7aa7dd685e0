"""Sweeps, and the jobs that are their trials."""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.paging import page
from app.db.tables import JobRow, SweepRow
from app.domain.sweep import UNDERWAY


def add(session: Session, row: SweepRow) -> None:
    session.add(row)
    session.flush()


def get(session: Session, project_id: str, sweep_id: str) -> SweepRow | None:
    query = select(SweepRow).where(SweepRow.id == sweep_id, SweepRow.project_id == project_id)
    return session.scalar(query.execution_options(populate_existing=True))


def listed(
    session: Session, project_id: str, *, state: str | None, before: str | None, limit: int
) -> Sequence[SweepRow]:
    query = select(SweepRow).where(SweepRow.project_id == project_id)
    if state is not None:
        query = query.where(SweepRow.state == state)
    return page(session, query, SweepRow.id, before=before, limit=limit)


def underway(session: Session) -> Sequence[tuple[str, str]]:
    """List the projects and ids of all sweeps that have not ended."""
    query = select(SweepRow.project_id, SweepRow.id).where(SweepRow.state.in_(UNDERWAY)).order_by(SweepRow.id)
    return [(project_id, sweep_id) for project_id, sweep_id in session.execute(query)]


def states(session: Session, sweep_ids: Sequence[str]) -> Sequence[tuple[str, str]]:
    """Read the ids and states of sweeps, of whatever project."""
    query = select(SweepRow.id, SweepRow.state).where(SweepRow.id.in_(sweep_ids))
    return [(sweep_id, state) for sweep_id, state in session.execute(query)]


def cancel_all(session: Session, project_id: str) -> None:
    """Mark the sweeps of a project that run as being cancelled."""
    running = update(SweepRow).where(SweepRow.project_id == project_id, SweepRow.state == "running")
    session.execute(running.values(state="cancelling").execution_options(synchronize_session=False))


def trials(session: Session, project_id: str, sweep_id: str) -> Sequence[JobRow]:
    """List the jobs of a sweep, the oldest first."""
    query = select(JobRow).where(JobRow.project_id == project_id, JobRow.sweep_id == sweep_id).order_by(JobRow.id)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def delete(session: Session, row: SweepRow) -> None:
    """Remove a sweep; its jobs stay, as jobs like any others."""
    theirs = update(JobRow).where(JobRow.project_id == row.project_id, JobRow.sweep_id == row.id)
    session.execute(theirs.values(sweep_id=None, trial=None).execution_options(synchronize_session=False))
    session.delete(row)
    session.flush()
