"""Uploaded models."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db import models, projects
from app.db.engine import Sessions
from app.db.tables import ModelRow
from app.domain.errors import InUse, NotFound, NotReady
from app.domain.ids import Prefix, is_id, new_id
from app.domain.model import ObjectState
from app.services import audit, contents, uploads
from app.services.callers import Caller
from app.services.uploads import Expectation
from app.storage import Incoming, Storage

FORMATS = ("pt2",)


def register(
    sessions: Sessions, storage: Storage, project_id: str, name: str, incoming: Incoming, expected: Expectation
) -> ModelRow:
    """Keep an upload as a model that waits for its inspection."""
    with uploads.admitted(storage, incoming, expected, FORMATS) as format_:
        row = ModelRow(
            id=new_id(Prefix.MODEL),
            project_id=project_id,
            name=name,
            format=format_,
            state=ObjectState.VALIDATING,
            size_bytes=incoming.size_bytes,
            sha256=incoming.sha256,
            created_at=datetime.now(UTC),
        )

        def add(session: Session) -> str:
            models.add(session, row)
            return row.id

        uploads.keep(sessions, storage, incoming, project_id, "model", add)
    return row


def get(session: Session, project_id: str, model_id: str) -> ModelRow:
    row = models.get(session, project_id, model_id) if is_id(Prefix.MODEL, model_id) else None
    if row is None:
        raise NotFound(f"There is no model {model_id!r}.")
    return row


def list_page(
    session: Session, project_id: str, *, state: ObjectState | None, before: str | None, limit: int
) -> Sequence[ModelRow]:
    return models.listed(session, project_id, state=state, before=before, limit=limit)


def remove(sessions: Sessions, storage: Storage, by: Caller, model_id: str) -> None:
    """Delete a model that no job refers to, and its content with it."""
    with sessions.begin() as session:
        projects.lock(session, by.project_id)
        row = get(session, by.project_id, model_id)
        if models.in_use(session, row.id):
            raise InUse("Jobs refer to this model.", hint="Delete the jobs first.")
        models.delete(session, row)
        audit.record(session, by, "model.deleted", row.id, project_id=by.project_id)
    contents.release(sessions, storage, by.project_id, row.sha256)


def layers_of(session: Session, project_id: str, model_id: str) -> list[dict[str, Any]]:
    """Read the layers that the inspection found. Raises NotReady before it has."""
    get(session, project_id, model_id)
    row = models.get_with_layers(session, project_id, model_id)
    if row is None or row.layers is None:
        raise NotReady(f"The layers of {model_id} are not known: it is not ready.")
    return row.layers
