"""API keys: made, checked and revoked. Only the SHA-256 of a secret is kept."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy.orm import Session

from app.db import keys, projects
from app.db.tables import KeyRow, ProjectRow
from app.domain.errors import Forbidden, NotFound, Unauthenticated
from app.domain.ids import Prefix, is_id, new_id

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
DEFAULT_PROJECT = "default"
_SECRET_BYTES = 32
_REFUSAL = "The request carries no valid key: send `Authorization: Bearer <key id>.<secret>`."


@dataclass(frozen=True)
class Caller:
    """Who asks: a key, the project it sees and what it may do there."""

    key_id: str
    project_id: str
    scopes: frozenset[str]

    def require(self, scope: Scope) -> None:
        if scope not in self.scopes:
            raise Forbidden(f"This needs a key with the scope {scope!r}.")


def bootstrap(session: Session) -> str | None:
    """Make the default project and its first key; null where it has one already."""
    project = _default_project(session)
    if keys.any_of(session, project.id):
        return None
    return create_key(session, project, SCOPES, name="admin")


def create_key(session: Session, project: ProjectRow, scopes: Sequence[Scope], *, name: str) -> str:
    """Make a key and return it in plain, for the only time."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    row = KeyRow(
        id=new_id(Prefix.KEY),
        project_id=project.id,
        name=name,
        secret_sha256=_digest(secret),
        scopes=list(scopes),
        created_at=datetime.now(UTC),
    )
    keys.add(session, row)
    return f"{row.id}.{secret}"


def create_default_key(session: Session, scopes: Sequence[Scope], *, name: str) -> str:
    """Make a key of the default project, and the project too where this is the first."""
    return create_key(session, _default_project(session), scopes, name=name)


def _default_project(session: Session) -> ProjectRow:
    project = projects.by_name(session, DEFAULT_PROJECT)
    if project is None:
        project = ProjectRow(id=new_id(Prefix.PROJECT), name=DEFAULT_PROJECT, created_at=datetime.now(UTC))
        projects.add(session, project)
    return project


def list_keys(session: Session) -> Sequence[KeyRow]:
    return keys.listed(session)


def revoke(session: Session, key_id: str) -> None:
    row = keys.get(session, key_id)
    if row is None:
        raise NotFound(f"There is no key {key_id}.")
    row.revoked_at = row.revoked_at or datetime.now(UTC)


def authenticate(session: Session, token: str | None) -> Caller:
    """Tell who holds the token. Raises Unauthenticated, with the same words whatever was wrong."""
    key_id, _, secret = (token or "").partition(".")
    row = keys.get(session, key_id) if is_id(Prefix.KEY, key_id) else None
    expected = row.secret_sha256 if row is not None else _digest("")
    matches = hmac.compare_digest(_digest(secret), expected)
    now = datetime.now(UTC)
    if row is None or not matches or row.revoked_at is not None or (row.expires_at or now) < now:
        raise Unauthenticated(_REFUSAL)
    return Caller(row.id, row.project_id, frozenset(row.scopes))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
