"""``Idempotency-Key``: one request at a time under a key, and the answer of the one that succeeded, for 24 hours.

A request that was refused changed nothing, so that its key is free again.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import idempotency
from app.db.engine import Sessions
from app.db.tables import IdempotencyRow
from app.domain.errors import Forbidden, IdempotencyInFlight, IdempotencyKeyReused, Malformed
from app.services.callers import Caller

KEPT = timedelta(hours=24)
LEASE = timedelta(seconds=60)
"""A request in flight that was not renewed for so long died with its process."""
KEY_PATTERN = r"^[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?$"
_KEY = re.compile(KEY_PATTERN)


@dataclass(frozen=True)
class Answer:
    """What a request was answered, and the fingerprint of its payload."""

    fingerprint: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def check(self, fingerprint: str) -> None:
        """Raise IdempotencyKeyReused where another payload was sent."""
        if fingerprint != self.fingerprint:
            raise IdempotencyKeyReused(
                "Another request was made under this Idempotency-Key.", hint="Send a key of its own with each request."
            )


@dataclass(frozen=True)
class Claim:
    """The right to carry a request out under its key."""

    project_id: str
    key: str
    token: str


def check_key(key: str) -> None:
    """Raise Malformed where it is no key."""
    if not _KEY.fullmatch(key):
        raise Malformed("An Idempotency-Key is 1 to 255 printable ASCII characters.")


def begin(sessions: Sessions, caller: Caller, key: str) -> Claim | Answer:
    """Claim the key, or give the answer that stands under it.

    Raises:
        IdempotencyInFlight: another request holds it.
        Forbidden: the answer was made to a key that may do more.
    """
    claim = Claim(caller.project_id, key, secrets.token_hex(16))
    try:
        return _begin(sessions, caller, claim)
    except IntegrityError as error:
        raise in_flight() from error  # it began in between


def _begin(sessions: Sessions, caller: Caller, claim: Claim) -> Claim | Answer:
    now = datetime.now(UTC)
    with sessions.begin() as session:
        row = idempotency.get_held(session, claim.project_id, claim.key)
        if row is not None and row.expires_at <= now:
            idempotency.delete_row(session, row)
            row = None
        if row is None:
            scopes = sorted(caller.scopes)
            row = IdempotencyRow(**vars(claim), scopes=scopes, expires_at=now + LEASE)
            idempotency.add(session, row)
            return claim
        if row.status is None:
            raise in_flight()
        if not caller.scopes.issuperset(row.scopes):
            raise Forbidden(f"The first request under this Idempotency-Key had the scopes {', '.join(row.scopes)}.")
        return Answer(row.fingerprint or "", row.status, row.headers or {}, row.body or b"")


def renew(sessions: Sessions, claim: Claim) -> None:
    """Keep the claim of a request that takes long; an answer that is there by then stays for as long as it does."""
    with sessions.begin() as session:
        idempotency.put_off(session, claim.project_id, claim.key, claim.token, datetime.now(UTC) + LEASE)


def complete(sessions: Sessions, claim: Claim, answer: Answer) -> None:
    """Keep the answer of a request that succeeded and has committed what it did."""
    with sessions.begin() as session:
        fill(session, claim, answer)


def fill(session: Session, claim: Claim, answer: Answer) -> bool:
    """Keep the answer of a request in the transaction of what it did; false where the claim was lost to another."""
    values = {
        "fingerprint": answer.fingerprint,
        "status": answer.status,
        "headers": dict(answer.headers),
        "body": answer.body,
        "expires_at": datetime.now(UTC) + KEPT,
    }
    return idempotency.change(session, claim.project_id, claim.key, claim.token, values)


def abandon(sessions: Sessions, claim: Claim) -> None:
    """Free the key of a request that came to nothing."""
    with sessions.begin() as session:
        idempotency.drop(session, claim.project_id, claim.key, claim.token)


def clear(readers: Sessions, sessions: Sessions, now: datetime) -> int:
    """Forget what has expired; the write lock is taken only where there is something."""
    with readers() as session:
        if not idempotency.any_expired(session, now):
            return 0
    with sessions.begin() as session:
        return idempotency.clear(session, now)


def in_flight() -> IdempotencyInFlight:
    """Say that another request holds the key."""
    return IdempotencyInFlight(
        "A request with this Idempotency-Key has not been answered yet.", hint="Try again in a moment."
    )
