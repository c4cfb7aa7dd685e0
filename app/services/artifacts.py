"""What jobs left behind."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.db import artifacts
from app.db.tables import ArtifactRow
from app.domain.errors import NotFound
from app.domain.ids import Prefix, is_id
from app.domain.task import REPORT_FILE
from app.services import jobs


def of_job(session: Session, project_id: str, job_id: str) -> Sequence[ArtifactRow]:
    return artifacts.of_job(session, jobs.find(session, project_id, job_id).id)


def report_of(session: Session, project_id: str, job_id: str) -> ArtifactRow:
    job = jobs.find(session, project_id, job_id)
    row = artifacts.by_name(session, job.id, REPORT_FILE)
    if row is None:
        raise NotFound(f"The job has no report: it is {job.state}.")
    return row


def get(session: Session, project_id: str, artifact_id: str) -> ArtifactRow:
    row = artifacts.get(session, project_id, artifact_id) if is_id(Prefix.ARTIFACT, artifact_id) else None
    if row is None:
        raise NotFound(f"There is no artifact {artifact_id!r}.")
    return row
