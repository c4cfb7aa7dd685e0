"""Artifacts: the files that a job left."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import contents
from app.db.tables import ArtifactRow


def add(session: Session, row: ArtifactRow) -> None:
    """Write down a file; one of the same name that an earlier attempt left is replaced."""
    earlier = by_name(session, row.job_id, row.name)
    if earlier is not None:
        delete(session, earlier)
    session.add(row)
    session.flush()
    contents.count(session, row.project_id, row.sha256, row.size_bytes)


def delete(session: Session, row: ArtifactRow) -> None:
    session.delete(row)
    session.flush()


def get(session: Session, project_id: str, artifact_id: str) -> ArtifactRow | None:
    query = select(ArtifactRow).where(ArtifactRow.id == artifact_id, ArtifactRow.project_id == project_id)
    return session.scalar(query)


def by_name(session: Session, job_id: str, name: str) -> ArtifactRow | None:
    return session.scalar(select(ArtifactRow).where(ArtifactRow.job_id == job_id, ArtifactRow.name == name))


def of_job(session: Session, job_id: str) -> Sequence[ArtifactRow]:
    """Read a job's artifacts by name; there are a handful."""
    return session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id).order_by(ArtifactRow.name)).all()
