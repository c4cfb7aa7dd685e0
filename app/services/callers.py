"""Who asks: a key, checked in constant time. Only the SHA-256 of a secret is kept."""

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy.orm import Session

from app.db import keys, projects
from app.db.engine import Sessions
from app.db.tables import KeyRow
from app.domain.errors import Forbidden, Unauthenticated
from app.domain.ids import Prefix, is_id

Scope = Literal["read", "write", "admin"]
TRUSTED_SECONDS = 0.5
"""A key is taken as it was so long ago: half of the second within which a revocation holds everywhere."""
_MOST_KNOWN = 1000
_REFUSAL = "The request carries no valid key: send `Authorization: Bearer <key id>.<secret>`."


@dataclass(frozen=True)
class Caller:
    """A key, the project it sees, what it may do there, and the request it is used for."""

    key_id: str
    project_id: str
    scopes: frozenset[str]
    secret_sha256: str = field(default="", repr=False)
    request_id: str | None = None

    def require(self, scope: Scope) -> None:
        if scope not in self.scopes:
            raise Forbidden(f"This needs a key with the scope {scope!r}.")

    def during(self, request_id: str) -> "Caller":
        return replace(self, request_id=request_id)


class Keyring:
    """Keys as they were read a moment ago, so that not each of many requests asks the database.

    What ends a key in this process has it forgotten at once; what ends it elsewhere holds within TRUSTED_SECONDS.
    """

    def __init__(self, readers: Sessions) -> None:
        self._readers = readers
        self._known: OrderedDict[str, tuple[float, KeyRow]] = OrderedDict()
        self._forgotten = 0
        self._lock = threading.Lock()

    def recall(self, token: str | None) -> Caller | None:
        """Tell who holds the token without asking the database; null where it has to be asked."""
        key_id, _, secret = (token or "").partition(".")
        read_at, row = self._known.get(key_id, (0.0, None))
        return _caller(row, secret) if time.monotonic() - read_at < TRUSTED_SECONDS else None

    def authenticate(self, token: str | None) -> Caller:
        """Tell who holds the token. Raises Unauthenticated, with the same words whatever was wrong."""
        key_id, _, secret = (token or "").partition(".")
        row, read_at, forgotten = None, time.monotonic(), self._forgotten
        if is_id(Prefix.KEY, key_id):
            with self._readers() as session:
                row = keys.get_open(session, key_id)
        caller = _caller(row, secret)
        if row is None or caller is None:
            raise Unauthenticated(_REFUSAL)
        with self._lock:
            # What was read before keys ended may be one of them.
            if forgotten == self._forgotten:
                self._known[key_id] = read_at, row
                self._known.move_to_end(key_id)
                if len(self._known) > _MOST_KNOWN:
                    self._known.popitem(last=False)
        return caller

    def forget(self) -> None:
        """Ask the database anew for every key: some have ended."""
        with self._lock:
            self._forgotten += 1
            self._known.clear()


def _caller(row: KeyRow | None, secret: str) -> Caller | None:
    """Give the caller who knows the secret of a key that is valid, in the same time whatever is wrong."""
    matches = hmac.compare_digest(digest(secret), row.secret_sha256 if row is not None else digest(""))
    if row is None or not matches or not _valid(row):
        return None
    return Caller(row.id, row.project_id, frozenset(row.scopes), row.secret_sha256)


def still_valid(session: Session, caller: Caller) -> bool:
    """Tell whether the key was neither revoked nor rotated since, for answers that take long."""
    return _still(keys.get_open(session, caller.key_id), caller)


def ended_among(session: Session, asked: Collection[Caller]) -> set[Caller]:
    """Tell which of them have a key that was revoked, rotated or has expired since."""
    if not asked:
        return set()
    rows = {row.id: row for row in keys.get_open_among(session, {caller.key_id for caller in asked})}
    return {caller for caller in asked if not _still(rows.get(caller.key_id), caller)}


def require_valid(session: Session, caller: Caller) -> None:
    """Raise Unauthenticated where the key has ended since its request came."""
    if not still_valid(session, caller):
        raise Unauthenticated(_REFUSAL)


def hold_open(session: Session, project_id: str, *, shared: bool = False) -> None:
    """Hold the project in which something is to be made, alone or as one of several.

    Raises Unauthenticated where it was closed since the key was read.
    """
    hold = projects.share if shared else projects.lock
    if not hold(session, project_id):
        raise Unauthenticated(_REFUSAL)


def _still(row: KeyRow | None, caller: Caller) -> bool:
    return row is not None and _valid(row) and hmac.compare_digest(row.secret_sha256, caller.secret_sha256)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _valid(row: KeyRow) -> bool:
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > datetime.now(UTC))
