"""API keys."""

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.paging import page
from app.db.tables import KeyRow, ProjectRow


def get(session: Session, key_id: str) -> KeyRow | None:
    return session.get(KeyRow, key_id)


def get_open(session: Session, key_id: str) -> KeyRow | None:
    """Get a key, as it is now, whose project has not been revoked."""
    query = select(KeyRow).join(ProjectRow, ProjectRow.id == KeyRow.project_id)
    return session.scalar(query.where(KeyRow.id == key_id, ProjectRow.revoked_at.is_(None)))


def get_open_among(session: Session, key_ids: Collection[str]) -> Sequence[KeyRow]:
    """Get those of these keys, as they are now, whose projects have not been revoked."""
    query = select(KeyRow).join(ProjectRow, ProjectRow.id == KeyRow.project_id)
    return session.scalars(query.where(KeyRow.id.in_(key_ids), ProjectRow.revoked_at.is_(None))).all()


def get_held(session: Session, project_id: str, key_id: str) -> KeyRow | None:
    """Get a key of the project and hold it until the transaction ends."""
    query = select(KeyRow).where(KeyRow.id == key_id, KeyRow.project_id == project_id)
    return session.scalar(query.with_for_update())


def add(session: Session, row: KeyRow) -> None:
    session.add(row)
    session.flush()


def any_of(session: Session, project_id: str) -> bool:
    """Tell whether the project has any key, revoked ones included."""
    return session.scalar(select(KeyRow.id).where(KeyRow.project_id == project_id).limit(1)) is not None


def listed(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[KeyRow]:
    query = select(KeyRow).where(KeyRow.project_id == project_id)
    return page(session, query, KeyRow.id, before=before, limit=limit)


def everyone(session: Session) -> Sequence[KeyRow]:
    """Read every key of every project, oldest first; operators have few."""
    return session.scalars(select(KeyRow).order_by(KeyRow.id)).all()
