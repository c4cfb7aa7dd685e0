"""Uploads that wait for their inspection, models and data sets alike."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.tables import DatasetRow, ModelRow
from app.domain.model import ObjectState

Upload = ModelRow | DatasetRow
Table = type[ModelRow] | type[DatasetRow]
TABLES: dict[str, Table] = {"model": ModelRow, "dataset": DatasetRow}
"""By the word that stands for each in a message."""


def waiting_since(session: Session, kind: str, before: datetime, limit: int) -> Sequence[Upload]:
    """Read uploads that nobody has asked to inspect, or worked on, since a time."""
    table = TABLES[kind]
    query = select(table).where(table.state == ObjectState.VALIDATING, table.asked_at < before)
    return cast("Sequence[Upload]", session.scalars(query.order_by(table.id).limit(limit)).all())


def states(session: Session, table: Table, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Read the states of uploads of whatever project, each with its id."""
    return [(id_, state) for id_, state in session.execute(select(table.id, table.state).where(table.id.in_(ids)))]


def touch(session: Session, row: Upload, now: datetime, *, unless_since: datetime | None = None) -> bool:
    """Note that an inspection was asked for or is at work; false where it was since a time, or has ended."""
    table = type(row)
    statement = update(table).where(table.id == row.id, table.state == ObjectState.VALIDATING)
    if unless_since is not None:
        statement = statement.where(table.asked_at < unless_since)
    touched = statement.values(asked_at=now).returning(table.id).execution_options(synchronize_session=False)
    return session.scalar(touched) is not None
