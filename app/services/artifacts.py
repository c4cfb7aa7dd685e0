"""What jobs left behind."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.db import artifacts
from app.db.tables import ArtifactRow
from app.domain.errors import NotFound
from app.domain.ids import Prefix, is_id
from app.domain.task import CARD_FILE, PAGE_FILE, REPORT_FILE
from app.services import jobs


def of_job(session: Session, project_id: str, job_id: str) -> Sequence[ArtifactRow]:
    return artifacts.of_job(session, jobs.find(session, project_id, job_id).id)


def reports_of(session: Session, project_id: str, job_id: str) -> dict[str, ArtifactRow]:
    """Give the report in each form that the job left, by name; ``report.json`` is always among them."""
    job = jobs.find(session, project_id, job_id)
    forms = (REPORT_FILE, PAGE_FILE, CARD_FILE)
    found = {row.name: row for row in artifacts.of_job(session, job.id) if row.name in forms}
    if REPORT_FILE not in found:
        raise NotFound(f"The job has no report: it is {job.state}.")
    return found


def get(session: Session, project_id: str, artifact_id: str) -> ArtifactRow:
    row = artifacts.get(session, project_id, artifact_id) if is_id(Prefix.ARTIFACT, artifact_id) else None
    if row is None:
        raise NotFound(f"There is no artifact {artifact_id!r}.")
    return row
