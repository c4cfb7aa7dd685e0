"""Stored contents, which several objects of one project may refer to."""

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from app.db.tables import ArtifactRow, DatasetRow, ModelRow
from app.domain.model import ObjectState


def referred_to(session: Session, project_id: str, sha256: str) -> bool:
    """Tell whether anything of the project still needs the content; rejected uploads do not."""
    uploads = (
        exists().where(row.project_id == project_id, row.sha256 == sha256, row.state != ObjectState.REJECTED)
        for row in (ModelRow, DatasetRow)
    )
    artifact = exists().where(ArtifactRow.project_id == project_id, ArtifactRow.sha256 == sha256)
    return bool(session.scalar(select(or_(*uploads, artifact))))
