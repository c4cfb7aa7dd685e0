"""Projects. The operator, an admin key of the default project, makes and revokes them; others see their own."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import projects, webhooks
from app.db.tables import ProjectRow
from app.domain.errors import Conflict, FieldError, Forbidden, NameTaken, NotFound
from app.domain.ids import Prefix, is_id, new_id
from app.services import audit, keys, sweeps
from app.services.callers import Caller
from app.services.keys import DEFAULT_PROJECT, NewKey


def is_operator(session: Session, caller: Caller) -> bool:
    project = projects.get(session, caller.project_id)
    return project is not None and project.name == DEFAULT_PROJECT and "admin" in caller.scopes


def make(session: Session, by: Caller, name: str) -> tuple[ProjectRow, NewKey]:
    """Make a project and its first admin key. Raises Forbidden or NameTaken."""
    _require_operator(session, by)
    row = ProjectRow(id=new_id(Prefix.PROJECT), name=name, created_at=datetime.now(UTC))
    try:
        projects.add(session, row)
    except IntegrityError as error:
        raise NameTaken(f"There is a project {name!r} already.") from error
    audit.record(session, by, "project.created", row.id, project_id=row.id)
    return row, keys.make(session, by, row.id, keys.SCOPES, name="admin")


def get(session: Session, caller: Caller, project_id: str) -> ProjectRow:
    """Get the caller's own project, or any for the operator."""
    row = projects.get(session, project_id) if is_id(Prefix.PROJECT, project_id) else None
    if row is None or not (row.id == caller.project_id or is_operator(session, caller)):
        raise NotFound(f"There is no project {project_id!r}.")
    return row


def for_key(session: Session, caller: Caller, project_id: str | None) -> ProjectRow:
    """Get the project that a new key is to be of: the caller's own, or another that the operator names."""
    if project_id is None:
        return projects.get_one(session, caller.project_id)
    try:
        row = get(session, caller, project_id)
    except NotFound as error:
        raise NotFound(error.detail, errors=[FieldError(pointer="/project_id", message=error.detail)]) from error
    if row.revoked_at is not None:
        raise Conflict("The project is revoked.", errors=[FieldError(pointer="/project_id", message="It is revoked.")])
    return row


def list_page(session: Session, caller: Caller, *, before: str | None, limit: int) -> Sequence[ProjectRow]:
    only = None if is_operator(session, caller) else caller.project_id
    return projects.listed(session, only=only, before=before, limit=limit)


def revoke(session: Session, by: Caller, project_id: str) -> None:
    """Close a project: none of its keys works from now on, nothing more is computed or sent, and what it holds stays.

    Raises Forbidden or Conflict.
    """
    row = get(session, by, project_id)
    _require_operator(session, by)
    if row.name == DEFAULT_PROJECT:
        raise Conflict("The project `default` is the operator's own.")
    if row.revoked_at is None:
        now = datetime.now(UTC)
        projects.lock(session, row.id)
        row.revoked_at = now
        session.flush()
        webhooks.disable_all(session, row.id, now)
        sweeps.cancel_all(session, row.id, now)
        audit.record(session, by, "project.revoked", row.id, project_id=row.id)


def _require_operator(session: Session, caller: Caller) -> None:
    if not is_operator(session, caller):
        raise Forbidden(f"This needs an admin key of the project {DEFAULT_PROJECT!r}.")
