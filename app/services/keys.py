"""API keys: made, listed, rotated and revoked. A secret is shown once, when it is made."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app.db import keys, projects
from app.db.tables import KeyRow, ProjectRow
from app.domain.errors import Conflict, NotFound
from app.domain.ids import Prefix, is_id, new_id
from app.services import audit
from app.services.callers import Caller, Scope, digest

SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
DEFAULT_PROJECT = "default"
_SECRET_BYTES = 32


@dataclass(frozen=True)
class NewKey:
    """A key and, for the only time, its text: what its holder sends."""

    row: KeyRow
    text: str


def bootstrap(session: Session) -> str | None:
    """Make the default project and its first key; null where it has one already."""
    project = _default_project(session)
    if keys.any_of(session, project.id):
        return None
    return make(session, None, project.id, SCOPES, name="admin").text


def make(
    session: Session,
    by: Caller | None,
    project_id: str,
    scopes: Sequence[Scope],
    *,
    name: str,
    expires_at: datetime | None = None,
) -> NewKey:
    """Make a key of a project."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    row = KeyRow(
        id=new_id(Prefix.KEY),
        project_id=project_id,
        name=name,
        secret_sha256=digest(secret),
        scopes=[scope for scope in SCOPES if scope in scopes],
        created_at=datetime.now(UTC),
        expires_at=expires_at,
    )
    keys.add(session, row)
    audit.record(session, by, "key.created", row.id, project_id=project_id)
    return NewKey(row, f"{row.id}.{secret}")


def create_default_key(session: Session, scopes: Sequence[Scope], *, name: str) -> str:
    """Make a key of the default project, and the project too where this is the first."""
    return make(session, None, _default_project(session).id, scopes, name=name).text


def _default_project(session: Session) -> ProjectRow:
    project = projects.by_name(session, DEFAULT_PROJECT)
    if project is None:
        project = ProjectRow(id=new_id(Prefix.PROJECT), name=DEFAULT_PROJECT, created_at=datetime.now(UTC))
        projects.add(session, project)
    return project


def get(session: Session, project_id: str, key_id: str) -> KeyRow:
    row = keys.get(session, key_id) if is_id(Prefix.KEY, key_id) else None
    if row is None or row.project_id != project_id:
        raise NotFound(f"There is no key {key_id!r}.")
    return row


def list_page(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[KeyRow]:
    return keys.listed(session, project_id, before=before, limit=limit)


def list_all(session: Session) -> Sequence[KeyRow]:
    return keys.everyone(session)


def rotate(session: Session, by: Caller, key_id: str) -> NewKey:
    """Give a key another secret; what was sent before no longer counts. Raises Conflict where it is revoked."""
    row = _held(session, by.project_id, key_id)
    if row.revoked_at is not None:
        raise Conflict("The key is revoked.", hint="Make another one.")
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    row.secret_sha256 = digest(secret)
    session.flush()
    audit.record(session, by, "key.rotated", row.id, project_id=row.project_id)
    return NewKey(row, f"{row.id}.{secret}")


def revoke(session: Session, by: Caller, key_id: str) -> None:
    """End a key of the caller's project for good; one that has ended stays as it is."""
    _end(session, by, _held(session, by.project_id, key_id))


def revoke_any(session: Session, key_id: str) -> None:
    """End a key of whatever project, at the command line."""
    row = keys.get(session, key_id)
    if row is None:
        raise NotFound(f"There is no key {key_id}.")
    _end(session, None, row)


def _end(session: Session, by: Caller | None, row: KeyRow) -> None:
    if row.revoked_at is None:
        row.revoked_at = datetime.now(UTC)
        session.flush()
        audit.record(session, by, "key.revoked", row.id, project_id=row.project_id)


def _held(session: Session, project_id: str, key_id: str) -> KeyRow:
    row = keys.get_held(session, project_id, key_id) if is_id(Prefix.KEY, key_id) else None
    if row is None:
        raise NotFound(f"There is no key {key_id!r}.")
    return row
