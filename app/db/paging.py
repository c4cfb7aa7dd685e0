"""Keyset paging: newest first, the page after a given id."""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import Session

Row = TypeVar("Row")


def page(
    session: Session, query: Select[Row], id_column: ColumnElement[Any] | Any, *, before: str | None, limit: int
) -> Sequence[Row]:
    """Read up to ``limit`` rows whose ids are below ``before``."""
    if before is not None:
        query = query.where(id_column < before)
    return session.scalars(query.order_by(id_column.desc()).limit(limit)).all()
