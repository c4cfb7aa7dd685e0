"""Stored contents, which several objects of one project may refer to."""

from collections.abc import Collection

from sqlalchemy import ColumnElement, delete, exists, or_, select, true
from sqlalchemy.orm import Session

from app.db import usage
from app.db.tables import ArtifactRow, ContentRow, DatasetRow, ModelRow
from app.domain.model import ObjectState


def referred_to(session: Session, project_id: str, sha256: str) -> bool:
    """Tell whether anything of the project still needs the content; rejected uploads do not."""
    uploads = (
        exists().where(row.project_id == project_id, row.sha256 == sha256, row.state != ObjectState.REJECTED)
        for row in (ModelRow, DatasetRow)
    )
    artifact = exists().where(ArtifactRow.project_id == project_id, ArtifactRow.sha256 == sha256)
    return bool(session.scalar(select(or_(*uploads, artifact))))


def unreferred(session: Session, contents: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Tell which of these contents, each named by its project and its SHA-256, nothing needs any more."""
    projects, digests = {project_id for project_id, _ in contents}, {sha256 for _, sha256 in contents}
    left = set(contents)
    holders: tuple[tuple[type[ModelRow | DatasetRow | ArtifactRow], ColumnElement[bool]], ...] = (
        (ModelRow, ModelRow.state != ObjectState.REJECTED),
        (DatasetRow, DatasetRow.state != ObjectState.REJECTED),
        (ArtifactRow, true()),
    )
    for row, holds in holders:
        # By both, as the index has them.
        query = select(row.project_id, row.sha256).where(row.project_id.in_(projects), row.sha256.in_(digests), holds)
        left -= {(project_id, sha256) for project_id, sha256 in session.execute(query.distinct())}
    return left


def count(session: Session, project_id: str, sha256: str, size_bytes: int) -> None:
    """Count a content that something refers to from now on, unless it is counted already."""
    if session.get(ContentRow, (project_id, sha256)) is None:
        session.add(ContentRow(project_id=project_id, sha256=sha256, size_bytes=size_bytes))
        session.flush()
        usage.add(session, project_id, stored_bytes=size_bytes)


def discount(session: Session, project_id: str, sha256: str) -> None:
    """Count a content no longer; one that never was counted is fine."""
    counted = delete(ContentRow).where(ContentRow.project_id == project_id, ContentRow.sha256 == sha256)
    size_bytes = session.scalar(counted.returning(ContentRow.size_bytes).execution_options(synchronize_session=False))
    if size_bytes is not None:
        usage.add(session, project_id, stored_bytes=-size_bytes)


def counted(session: Session, project_id: str, sha256: str) -> bool:
    return session.get(ContentRow, (project_id, sha256)) is not None
