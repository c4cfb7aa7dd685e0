"""The trials of a sweep against each other: which is the best of them, also once others are gone."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.db import sweeps
from app.db.tables import JobRow
from app.domain.job import JobState
from app.domain.sweep import SweepSpec

_FIGURES = {"latency": ("p50_ms", 1), "size": ("size_bytes", 1), "macs": ("macs_ratio", -1)}


def score(spec: SweepSpec, job: JobRow) -> tuple[float, ...]:
    """Rank those that meet the objective by what is minimized, and the others behind them by what they lost."""
    summary = job.summary or {}
    name, sign = _FIGURES[spec.objective.minimize]
    if job.state == JobState.SUCCEEDED:
        return (0, sign * summary.get(name, float("inf")), summary.get("size_bytes", 0))
    return (1, summary.get("metric_drop", float("inf")), 0)


def best_of(spec: SweepSpec, trials: Sequence[JobRow]) -> str | None:
    """Give the id of the best of those that meet the objective, the first of equals."""
    good = [job for job in trials if job.state == JobState.SUCCEEDED]
    best = min(good, key=lambda job: (*score(spec, job), job.id), default=None)
    return best.id if best is not None else None


def let_go(session: Session, project_id: str, sweep_id: str, job_id: str) -> None:
    """Name another as the best of a sweep whose best was this one, which has just been deleted."""
    row = sweeps.get(session, project_id, sweep_id)
    if row is not None and row.best_job_id == job_id:
        row.best_job_id = best_of(SweepSpec.model_validate(row.spec), sweeps.trials(session, project_id, sweep_id))
        session.flush()
