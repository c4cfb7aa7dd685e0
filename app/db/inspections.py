"""Uploads that wait for their inspection, models and data sets alike."""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any, cast

from sqlalchemy import CompoundSelect, Select, bindparam, select, union_all, update
from sqlalchemy.orm import Session

from app.db.tables import DatasetRow, ModelRow, table_of
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
    return [(row.id, row.state) for row in session.execute(_states(table, ids))]


def _states(table: Table, ids: Collection[str]) -> Select[str, str]:
    return select(table.id, table.state).where(table.id.in_(ids))


def states_of_inputs(
    session: Session, project_id: str, model_id: str, dataset_id: str, others: Collection[str] = ()
) -> dict[str, str]:
    """Read the states of a job's model, data set and other models, without what is not there or not of the project."""
    values = {"project_id": project_id, "model_id": model_id, "dataset_id": dataset_id}
    found = {row.id: row.state for row in session.connection().execute(_inputs(), values)}
    if others:
        own = ModelRow.project_id == project_id
        found |= {row.id: row.state for row in session.execute(_states(ModelRow, others).where(own))}
    return found


@cache
def _inputs() -> CompoundSelect[str, str]:
    asked: Any = ((table_of(ModelRow), bindparam("model_id")), (table_of(DatasetRow), bindparam("dataset_id")))
    return union_all(
        *(
            select(table.c.id, table.c.state).where(table.c.id == id_, table.c.project_id == bindparam("project_id"))
            for table, id_ in asked
        )
    )


def model_facts(session: Session, model_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read what was found out about a model that is ready, of whatever project: its facts and its layers."""
    facts, layers = session.execute(select(ModelRow.facts, ModelRow.layers).where(ModelRow.id == model_id)).one()
    return facts, layers


def dataset_facts(session: Session, dataset_id: str) -> dict[str, Any]:
    """Read what was found out about a data set that is ready, of whatever project."""
    facts: dict[str, Any] = session.scalars(select(DatasetRow.facts).where(DatasetRow.id == dataset_id)).one() or {}
    return facts


def touch(session: Session, row: Upload, now: datetime, *, unless_since: datetime | None = None) -> bool:
    """Note that an inspection was asked for or is at work; false where it was since a time, or has ended."""
    table = type(row)
    statement = update(table).where(table.id == row.id, table.state == ObjectState.VALIDATING)
    if unless_since is not None:
        statement = statement.where(table.asked_at < unless_since)
    touched = statement.values(asked_at=now).returning(table.id).execution_options(synchronize_session=False)
    return session.scalar(touched) is not None
