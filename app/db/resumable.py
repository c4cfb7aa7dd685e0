"""Resumable uploads that are underway."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.db.paging import page
from app.db.tables import UploadPieceRow, UploadRow


def add(session: Session, row: UploadRow) -> None:
    session.add(row)
    session.flush()


def get(session: Session, project_id: str, upload_id: str, now: datetime) -> UploadRow | None:
    """Get an upload that has not expired."""
    query = select(UploadRow).where(UploadRow.id == upload_id, UploadRow.project_id == project_id)
    return session.scalar(query.where(UploadRow.expires_at > now))


def get_held(session: Session, project_id: str, upload_id: str, now: datetime) -> UploadRow | None:
    """Get an upload that has not expired, and hold it until the transaction ends."""
    query = select(UploadRow).where(UploadRow.id == upload_id, UploadRow.project_id == project_id)
    return session.scalar(query.where(UploadRow.expires_at > now).with_for_update())


def listed(session: Session, project_id: str, now: datetime, *, before: str | None, limit: int) -> Sequence[UploadRow]:
    query = select(UploadRow).where(UploadRow.project_id == project_id, UploadRow.expires_at > now)
    return page(session, query, UploadRow.id, before=before, limit=limit)


def reserved_bytes(session: Session, project_id: str) -> int:
    """Sum up the sizes that uploads underway will have."""
    query = select(func.coalesce(func.sum(UploadRow.size_bytes), 0)).where(UploadRow.project_id == project_id)
    return int(session.scalars(query).one())


def advance(session: Session, upload_id: str, start: int, values: dict[str, Any]) -> bool:
    """Change an upload that stands at an offset; false where it is gone or stands elsewhere."""
    statement = update(UploadRow).where(UploadRow.id == upload_id, UploadRow.offset_bytes == start)
    statement = statement.values(**values).execution_options(synchronize_session=False)
    return session.scalar(statement.returning(UploadRow.id)) is not None


def add_piece(session: Session, upload_id: str, start: int, key: str) -> None:
    session.add(UploadPieceRow(upload_id=upload_id, start=start, key=key))
    session.flush()


def piece_keys(session: Session, upload_id: str) -> Sequence[str]:
    """Name the objects of an upload in the order of its bytes."""
    query = select(UploadPieceRow.key).where(UploadPieceRow.upload_id == upload_id)
    return session.scalars(query.order_by(UploadPieceRow.start)).all()


def take(session: Session, project_id: str, upload_id: str) -> bool:
    """Drop an upload's row; false where it is not there."""
    statement = delete(UploadRow).where(UploadRow.id == upload_id, UploadRow.project_id == project_id)
    taken = statement.returning(UploadRow.id).execution_options(synchronize_session=False)
    return session.scalar(taken) is not None


def expired(session: Session, now: datetime, limit: int) -> Sequence[str]:
    query = select(UploadRow.id).where(UploadRow.expires_at <= now)
    return session.scalars(query.order_by(UploadRow.expires_at).limit(limit)).all()


def expire(session: Session, upload_ids: Sequence[str], now: datetime) -> Sequence[str]:
    """Drop those that are still expired; name them."""
    statement = delete(UploadRow).where(UploadRow.id.in_(upload_ids), UploadRow.expires_at <= now)
    return session.scalars(statement.returning(UploadRow.id).execution_options(synchronize_session=False)).all()


def known(session: Session, upload_ids: Sequence[str]) -> set[str]:
    """Name those of the uploads that are there."""
    return set(session.scalars(select(UploadRow.id).where(UploadRow.id.in_(upload_ids))))
