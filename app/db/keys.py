"""API keys."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import KeyRow


def get(session: Session, key_id: str) -> KeyRow | None:
    return session.get(KeyRow, key_id)


def add(session: Session, row: KeyRow) -> None:
    session.add(row)
    session.flush()


def any_of(session: Session, project_id: str) -> bool:
    """Tell whether the project has any key, revoked ones included."""
    return session.scalar(select(KeyRow.id).where(KeyRow.project_id == project_id).limit(1)) is not None


def listed(session: Session) -> Sequence[KeyRow]:
    """Read every key, oldest first; operators have few."""
    return session.scalars(select(KeyRow).order_by(KeyRow.id)).all()
