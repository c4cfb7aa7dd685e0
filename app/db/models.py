"""Uploaded models."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import exists, or_, select, update
from sqlalchemy.orm import Session, undefer

from app.db import contents, webhooks
from app.db.paging import page
from app.db.tables import JobModelRow, JobRow, ModelRow
from app.domain.errors import Failure
from app.domain.model import ModelFacts, ObjectState


def add(session: Session, row: ModelRow) -> None:
    row.asked_at = row.created_at
    session.add(row)
    session.flush()
    contents.count(session, row.project_id, row.sha256, row.size_bytes)


def get(session: Session, project_id: str, model_id: str) -> ModelRow | None:
    return session.scalar(select(ModelRow).where(ModelRow.id == model_id, ModelRow.project_id == project_id))


def get_with_layers(session: Session, project_id: str, model_id: str) -> ModelRow | None:
    query = select(ModelRow).where(ModelRow.id == model_id, ModelRow.project_id == project_id)
    return session.scalar(query.options(undefer(ModelRow.layers)))


def to_inspect(session: Session, model_id: str) -> ModelRow | None:
    """Get a model that waits for its inspection, whatever its project."""
    query = select(ModelRow).where(ModelRow.id == model_id, ModelRow.state == ObjectState.VALIDATING)
    return session.scalar(query)


def listed(
    session: Session, project_id: str, *, state: str | None, before: str | None, limit: int
) -> Sequence[ModelRow]:
    query = select(ModelRow).where(ModelRow.project_id == project_id)
    if state is not None:
        query = query.where(ModelRow.state == state)
    return page(session, query, ModelRow.id, before=before, limit=limit)


def finish_inspection(session: Session, model_id: str, outcome: ModelFacts | Failure) -> bool:
    """Make the model ready, or reject it; false where it no longer waits for that.

    The content of a rejected one is the caller's to remove (``app.services.contents.release``).
    """
    values: dict[str, Any]
    if isinstance(outcome, Failure):
        values = {"state": ObjectState.REJECTED, "problem": outcome.model_dump(mode="json")}
    else:
        facts = outcome.model_dump(mode="json")
        values = {"state": ObjectState.READY, "layers": facts.pop("layers"), "facts": facts}
    statement = (
        update(ModelRow)
        .where(ModelRow.id == model_id, ModelRow.state == ObjectState.VALIDATING)
        .values(**values)
        .returning(ModelRow.id)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(statement) is None:
        return False
    webhooks.announce_upload(session, "model", model_id, values["state"], datetime.now(UTC))
    return True


def in_use(session: Session, model_id: str) -> bool:
    """Tell whether a job is of this model, or one that has not ended names it in its recipe."""
    named = exists().where(JobModelRow.model_id == model_id, JobRow.id == JobModelRow.job_id, JobRow.ended_at.is_(None))
    return bool(session.scalar(select(or_(exists().where(JobRow.model_id == model_id), named))))


def delete(session: Session, row: ModelRow) -> None:
    session.delete(row)
    session.flush()
