"""Uploaded models."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

from sqlalchemy.orm import Session

from app.db import artifacts, jobs, models, projects
from app.db.engine import Sessions
from app.db.tables import ArtifactRow, ModelRow
from app.domain.errors import FieldError, InUse, NotFound, NotReady, UnknownFormat
from app.domain.ids import Prefix, is_id
from app.domain.model import ModelFormat, ObjectState
from app.services import audit, contents, formats, uploads
from app.services.callers import Caller, hold_open
from app.services.uploads import Expectation
from app.storage import Incoming, Storage, content_key

FORMATS: tuple[str, ...] = get_args(ModelFormat)


Tell = Callable[[Session, ModelRow], None]
"""Called in the transaction that makes a model."""


def register(
    sessions: Sessions,
    storage: Storage,
    project_id: str,
    name: str,
    incoming: Incoming,
    expected: Expectation,
    tell: Tell,
) -> None:
    """Keep an upload as a model that waits for its inspection."""
    with uploads.admitted(storage, incoming, expected, FORMATS) as format_:
        row = ModelRow(**uploads.describe(Prefix.MODEL, project_id, name, format_, incoming))

        def add(session: Session) -> str:
            models.add(session, row)
            tell(session, row)
            return row.id

        uploads.keep(sessions, storage, incoming, project_id, "model", add, room_bytes=expected.room_bytes)


def register_artifact(
    sessions: Sessions, storage: Storage, project_id: str, name: str, artifact_id: str, tell: Tell
) -> None:
    """Make a model of a job's artifact, inspected like any upload; its content is there already.

    Raises NotFound, UnknownFormat.
    """
    with sessions.begin() as session:
        hold_open(session, project_id)
        artifact = _artifact(session, project_id, artifact_id)
        job = jobs.get(session, project_id, artifact.job_id)
        assert job is not None  # the artifact's foreign key
        with storage.open(content_key(project_id, artifact.sha256)) as file:
            format_ = formats.tell(file, artifact.size_bytes)
        uploads.check_accepted(format_, FORMATS)
        columns = uploads.describe(Prefix.MODEL, project_id, name, format_, artifact)
        row = ModelRow(**columns, origin={"job_id": job.id, "model_id": job.model_id})
        models.add(session, row)
        uploads.ask_for_inspection(session, "model", row.id)
        tell(session, row)


def _artifact(session: Session, project_id: str, artifact_id: str) -> ArtifactRow:
    row = artifacts.get(session, project_id, artifact_id) if is_id(Prefix.ARTIFACT, artifact_id) else None
    pointer = "/artifact_id"
    if row is None:
        message = f"There is no artifact {artifact_id!r}."
        raise NotFound(message, errors=[FieldError(pointer=pointer, message=message)])
    if row.kind != "model" or row.format not in FORMATS:
        message = f"The artifact {row.name} is no model in a format that is read: {', '.join(FORMATS)}."
        raise UnknownFormat(message, errors=[FieldError(pointer=pointer, message=message)])
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
            raise InUse(
                "Jobs refer to this model.", hint="Delete the jobs first; of those that only name it, let all end."
            )
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
