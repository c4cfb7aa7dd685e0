"""How a file comes in: received, told apart, checked against its digest, then kept."""

import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy.orm import Session

from app.db import outbox, resumable
from app.db.engine import Sessions
from app.db.tables import ArtifactRow
from app.domain.errors import DigestMismatch, Malformed, NotFound, UnknownFormat
from app.domain.ids import Prefix, new_id
from app.domain.model import ObjectState
from app.services import contents, formats, limits
from app.services.callers import hold_open
from app.storage import Incoming, Storage, check_size

_PRIORITY = 9
Content = Incoming | ArtifactRow
Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Expectation:
    """What the client says of the bytes it sends, null where it says nothing, and what they must fit into."""

    size_bytes: int | None
    sha256: str | None
    format: str | None
    room_bytes: int | None = None
    """What the project may store; without a limit where null."""


def parse_digest(header: str | None) -> str | None:
    """Read the SHA-256, in hexadecimal, out of a ``Repr-Digest`` header (RFC 9530); other algorithms are ignored."""
    for member in (header or "").split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.strip().lower() != "sha-256":
            continue
        value = value.partition(";")[0].strip()
        try:
            digest = base64.b64decode(value.strip(":"), validate=True)
        except ValueError as error:  # of no base64, and of signs that are not even ASCII
            raise Malformed("Repr-Digest holds no base64 between its colons.") from error
        if len(digest) != 32 or not (value.startswith(":") and value.endswith(":")):
            raise Malformed("Repr-Digest must read sha-256=:<base64 of 32 bytes>:.")
        return digest.hex()
    return None


async def receive(storage: Storage, body: AsyncIterator[bytes], expected: Expectation, *, limit: int) -> Incoming:
    """Write the body down. Raises TooLarge at once where its announced size is over the limit."""
    check_size(expected.size_bytes or 0, limit)
    return await storage.receive(body, limit=limit)


def describe(prefix: Prefix, project_id: str, name: str, format_: str, content: Content) -> dict[str, Any]:
    """Give the columns of a model or a data set that waits for its inspection."""
    return {
        "id": new_id(prefix),
        "project_id": project_id,
        "name": name,
        "format": format_,
        "state": ObjectState.VALIDATING,
        "size_bytes": content.size_bytes,
        "sha256": content.sha256,
        "created_at": datetime.now(UTC),
    }


@contextmanager
def admitted(storage: Storage, incoming: Incoming, expected: Expectation, accepted: tuple[str, ...]) -> Iterator[str]:
    """Check what was received and give its format; it is gone afterwards unless it was promoted."""
    try:
        if expected.sha256 is not None and expected.sha256 != incoming.sha256:
            raise DigestMismatch(f"The bytes received have the SHA-256 {incoming.sha256}, not {expected.sha256}.")
        with storage.open(incoming.key) as file:
            found = formats.tell(file, incoming.size_bytes)
        check_accepted(found, accepted)
        if expected.format not in {None, found}:
            raise UnknownFormat(f"The file is {found}, not {expected.format} as the query says.")
        yield found
    finally:
        storage.discard(incoming)


def check_accepted(format_: str, accepted: tuple[str, ...]) -> None:
    """Raise UnknownFormat where a known format has no place here."""
    if format_ not in accepted:
        raise UnknownFormat(f"The file is {format_}; this takes {' or '.join(accepted)}.")


def ask_for_inspection(session: Session, kind: Kind, upload_id: str) -> None:
    outbox.add(session, outbox.INSPECT, "inspect", _PRIORITY, {"kind": kind, "id": upload_id})


def keep(
    sessions: Sessions,
    storage: Storage,
    incoming: Incoming,
    project_id: str,
    kind: Kind,
    add: Callable[[Session], str],
    *,
    room_bytes: int | None,
) -> None:
    """Promote the content, write its row with ``add`` and ask for its inspection, all or nothing."""
    try:
        with sessions.begin() as session:
            hold_open(session, project_id)
            _take(session, project_id, incoming)
            limits.check_room(session, project_id, incoming.sha256, incoming.size_bytes, room_bytes)
            storage.promote(incoming, project_id)
            ask_for_inspection(session, kind, add(session))
    except BaseException:
        contents.release(sessions, storage, project_id, incoming.sha256)
        raise


def _take(session: Session, project_id: str, incoming: Incoming) -> None:
    """End the resumable upload that a content came by, if any. Raises NotFound where somebody else has."""
    if incoming.upload_id is not None and not resumable.take(session, project_id, incoming.upload_id):
        raise NotFound(f"The upload {incoming.upload_id} has been used or deleted meanwhile.")
