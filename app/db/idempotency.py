"""Requests that carry an ``Idempotency-Key``: those in flight, and the answers of those that succeeded."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from app.db.tables import IdempotencyRow


def get_held(session: Session, project_id: str, key: str) -> IdempotencyRow | None:
    """Get a record and hold it until the transaction ends."""
    query = select(IdempotencyRow).where(IdempotencyRow.project_id == project_id, IdempotencyRow.key == key)
    return session.scalar(query.with_for_update())


def add(session: Session, row: IdempotencyRow) -> None:
    """Write down a request that begins. Raises IntegrityError where another has just begun."""
    session.add(row)
    session.flush()


def change(session: Session, project_id: str, key: str, token: str, values: dict[str, Any]) -> bool:
    """Change the record of a request in flight; false where it is no longer this request's."""
    statement = update(IdempotencyRow).where(*_own(project_id, key, token)).values(**values)
    changed = session.scalar(statement.returning(IdempotencyRow.token).execution_options(synchronize_session=False))
    return changed is not None


def put_off(session: Session, project_id: str, key: str, token: str, expires_at: datetime) -> None:
    """Put the end of a request in flight off."""
    statement = update(IdempotencyRow).where(*_own(project_id, key, token), IdempotencyRow.status.is_(None))
    session.execute(statement.values(expires_at=expires_at).execution_options(synchronize_session=False))


def drop(session: Session, project_id: str, key: str, token: str) -> None:
    """Forget a request in flight that came to nothing; one whose answer is there has come to something."""
    statement = delete(IdempotencyRow).where(*_own(project_id, key, token), IdempotencyRow.status.is_(None))
    session.execute(statement.execution_options(synchronize_session=False))


def delete_row(session: Session, row: IdempotencyRow) -> None:
    session.delete(row)
    session.flush()


def any_expired(session: Session, now: datetime) -> bool:
    return bool(session.scalar(select(exists().where(IdempotencyRow.expires_at < now))))


def clear(session: Session, now: datetime) -> int:
    """Forget what has expired; return how much it was."""
    statement = delete(IdempotencyRow).where(IdempotencyRow.expires_at < now).returning(IdempotencyRow.token)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def _own(project_id: str, key: str, token: str) -> tuple[Any, ...]:
    return (IdempotencyRow.project_id == project_id, IdempotencyRow.key == key, IdempotencyRow.token == token)
