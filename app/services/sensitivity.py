"""Sensitivity tables that earlier jobs left, for steps that choose by them."""

from sqlalchemy.orm import Session

from app.db import artifacts, jobs
from app.db.tables import ArtifactRow, JobRow
from app.domain.compatibility import sensitivity
from app.domain.compatibility.refusal import refuse
from app.domain.dataset import DatasetFacts
from app.domain.errors import NoSensitivity
from app.domain.ids import Prefix, is_id
from app.domain.job import JobSpec, JobState
from app.domain.sensitivity import SENSITIVITY_FILE
from app.domain.steps.prune import PruneSpec

_ANALYZE = 'Ask for a job with {"method": "prune", "analyze": true} first.'


def check(session: Session, project_id: str, spec: JobSpec, dataset: DatasetFacts) -> None:
    """Raise NoSensitivity, with a pointer to the field, where a table that the recipe asks for is of no use to it."""
    for position, step in enumerate(spec.recipe):
        if not isinstance(step, PruneSpec) or step.sensitivity is None:
            continue
        try:
            sensitivity.check_uncut(spec.recipe[:position])
            row, _ = find_table(session, project_id, step.sensitivity)
            sensitivity.check_table(spec, step, JobSpec.model_validate(row.spec), dataset)
        except NoSensitivity as error:
            pointer = f"/recipe/{position}/sensitivity"
            raise refuse(NoSensitivity, pointer, error.detail, hint=error.hint or _ANALYZE) from error


def find_table(session: Session, project_id: str, job_id: str) -> tuple[JobRow, ArtifactRow]:
    """Find a job of this project that succeeded, and its table. Raises NoSensitivity."""
    job = jobs.get(session, project_id, job_id) if is_id(Prefix.JOB, job_id) else None
    if job is None:
        raise NoSensitivity(f"There is no job {job_id!r}.", hint=_ANALYZE)
    if job.state != JobState.SUCCEEDED:
        raise NoSensitivity(f"The job {job_id} is {job.state}; only one that succeeded has a table.", hint=_ANALYZE)
    table = artifacts.by_name(session, job.id, SENSITIVITY_FILE)
    if table is None:
        raise NoSensitivity(f"The job {job_id} analyzed nothing.", hint=_ANALYZE)
    return job, table
