"""Uploaded data sets."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from app.db import contents, webhooks
from app.db.paging import page
from app.db.tables import DatasetRow, JobRow
from app.domain.dataset import DatasetFacts
from app.domain.errors import Failure
from app.domain.model import ObjectState


def add(session: Session, row: DatasetRow) -> None:
    row.asked_at = row.created_at
    session.add(row)
    session.flush()
    contents.count(session, row.project_id, row.sha256, row.size_bytes)


def get(session: Session, project_id: str, dataset_id: str) -> DatasetRow | None:
    return session.scalar(select(DatasetRow).where(DatasetRow.id == dataset_id, DatasetRow.project_id == project_id))


def to_inspect(session: Session, dataset_id: str) -> DatasetRow | None:
    """Get a data set that waits for its inspection, whatever its project."""
    query = select(DatasetRow).where(DatasetRow.id == dataset_id, DatasetRow.state == ObjectState.VALIDATING)
    return session.scalar(query)


def listed(
    session: Session, project_id: str, *, state: str | None, before: str | None, limit: int
) -> Sequence[DatasetRow]:
    query = select(DatasetRow).where(DatasetRow.project_id == project_id)
    if state is not None:
        query = query.where(DatasetRow.state == state)
    return page(session, query, DatasetRow.id, before=before, limit=limit)


def finish_inspection(session: Session, dataset_id: str, outcome: DatasetFacts | Failure) -> bool:
    """Make the data set ready, or reject it; false where it no longer waits for that.

    The content of a rejected one is the caller's to remove (``app.services.contents.release``).
    """
    values: dict[str, Any]
    if isinstance(outcome, Failure):
        values = {"state": ObjectState.REJECTED, "problem": outcome.model_dump(mode="json")}
    else:
        values = {"state": ObjectState.READY, "facts": outcome.model_dump(mode="json")}
    statement = (
        update(DatasetRow)
        .where(DatasetRow.id == dataset_id, DatasetRow.state == ObjectState.VALIDATING)
        .values(**values)
        .returning(DatasetRow.id)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(statement) is None:
        return False
    webhooks.announce_upload(session, "dataset", dataset_id, values["state"], datetime.now(UTC))
    return True


def in_use(session: Session, dataset_id: str) -> bool:
    return bool(session.scalar(select(exists().where(JobRow.dataset_id == dataset_id))))


def delete(session: Session, row: DatasetRow) -> None:
    session.delete(row)
    session.flush()
