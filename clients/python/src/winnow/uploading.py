"""Files on their way up: resumable by tus 1.0.0, or in one request.

Protocol: https://tus.io/protocols/resumable-upload, core with the extensions creation and checksum.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from winnow.errors import ConnectionFailed, DamagedTransfer, NotFound, ProblemError, UserError
from winnow.transport import Transport, body_of, header_of, new_key, worth_another_try

Progress = Callable[[int, int], None]
"""Called with the bytes that have been sent and those that there are."""
CHUNK_BYTES = 8 * 1024**2
_BLOCK_BYTES = 1024**2
_TUS = {"Tus-Resumable": "1.0.0"}
_OCTETS = "application/octet-stream"
_NO_TUS = frozenset({404, 405, 501})
_GONE = frozenset({403, 404, 410})
_OUT_OF_STEP = frozenset({409, 423, 460})
"""Another offset, a lock that a cut connection still holds, and a checksum that does not match (tus)."""


def upload(
    transport: Transport,
    noun: str,
    path: Path,
    query: dict[str, Any],
    *,
    progress: Progress | None = None,
    resumable: bool | None = None,
) -> Any:
    """Send a file and give the object made of it.

    A file of one chunk goes in one request, as does every file where the service has no resumable uploads.
    Raises DamagedTransfer where what the service stored is not the file.
    """
    size = path.stat().st_size
    told = progress or _silent
    made = None
    if resumable is not False and (resumable or size > CHUNK_BYTES):
        made = _resumable(transport, noun, path, query, told)
    if made is None:
        made = _at_once(transport, noun, path, query, told)
    return made


def _at_once(transport: Transport, noun: str, path: Path, query: dict[str, Any], progress: Progress) -> Any:
    size, digest = path.stat().st_size, sha256_of(path)

    def body() -> Iterator[bytes]:
        sent = 0
        with path.open("rb") as file:
            for block in blocks(file):
                yield block
                sent += len(block)
                progress(sent, size)

    headers = {
        "Content-Type": _OCTETS,
        "Content-Length": str(size),
        "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
        "Idempotency-Key": new_key(),
    }
    return body_of(transport.request("POST", noun, content=body, params=query, headers=headers))


def _resumable(transport: Transport, noun: str, path: Path, query: dict[str, Any], progress: Progress) -> Any:
    """Send in chunks, from where an earlier try was cut; null where the service takes no such uploads."""
    remembered = _Remembered(transport.url, path)
    location = remembered.location()
    offset = _offset(transport, location) if location else None
    if location is None or offset is None:
        location, offset = _create(transport, path), 0
        if location is None:
            return None
        remembered.keep(location)
    digest = _Sender(transport, location, path, progress).send(offset)
    payload = {"name": query["name"], "upload_id": location.rstrip("/").rpartition("/")[2]}
    made = transport.post(noun, {**payload, **{name: it for name, it in query.items() if name != "name"}})
    remembered.forget()
    if made["sha256"] != digest:
        raise DamagedTransfer(
            f"{path.name} was stored with the SHA-256 {made['sha256']}, not {digest}.", code="digest_mismatch"
        )
    return made


def _create(transport: Transport, path: Path) -> str | None:
    name = base64.b64encode(os.fsencode(path.name)).decode()
    headers = {**_TUS, "Upload-Length": str(path.stat().st_size), "Upload-Metadata": f"filename {name}"}
    try:
        response = transport.request("POST", "uploads", headers={**headers, "Idempotency-Key": new_key()})
    except ProblemError as error:
        if error.status in _NO_TUS:
            return None
        raise
    return _within(transport, str(response.url.join(header_of(response, "Location"))))


def _within(transport: Transport, location: str) -> str:
    """Refuse an address on another server: the key goes with every chunk. Behind a proxy the scheme may differ."""
    if urlsplit(location).netloc != urlsplit(transport.url).netloc:
        raise UserError(502, "foreign_location", f"The service sends uploads elsewhere, to {location}.")
    return location if location.startswith(transport.url) else transport.url + urlsplit(location).path


def _offset(transport: Transport, location: str) -> int | None:
    """Ask how much has arrived; null where the upload is gone."""
    try:
        response = transport.request("HEAD", location, headers=_TUS)
    except ProblemError as error:
        if error.status in _GONE:
            return None
        raise
    return int(header_of(response, "Upload-Offset"))


@dataclass
class _Sender:
    transport: Transport
    location: str
    path: Path
    progress: Progress

    def send(self, offset: int) -> str:
        """Send what is missing and give the SHA-256 of the file. After each cut the service says where to go on."""
        size, digest, tried = self.path.stat().st_size, hashlib.sha256(), 0
        with self.path.open("rb") as file:
            hashed = _hash_to(file, digest, offset)
            self.progress(offset, size)
            while offset < size:
                file.seek(offset)
                chunk = file.read(CHUNK_BYTES)
                try:
                    offset = self._patch(offset, chunk)
                    tried = 0
                except (ProblemError, ConnectionFailed) as error:
                    if tried == self.transport.retries or not _may_go_on(error):
                        raise
                    self.transport.pause(tried, error)
                    tried += 1
                    offset = self._where(offset)
                if offset > hashed:
                    file.seek(hashed)
                    hashed += _hash_to(file, digest, offset - hashed)
                self.progress(offset, size)
        return digest.hexdigest()

    def _patch(self, offset: int, chunk: bytes) -> int:
        headers = {
            **_TUS,
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(offset),
            # The one algorithm that every server with this extension must have; it guards against damage alone.
            "Upload-Checksum": f"sha1 {base64.b64encode(hashlib.sha1(chunk, usedforsecurity=False).digest()).decode()}",
        }
        response = self.transport.request("PATCH", self.location, content=lambda: chunk, headers=headers, retry=False)
        return int(header_of(response, "Upload-Offset"))

    def _where(self, offset: int) -> int:
        found = _offset(self.transport, self.location)
        if found is None:
            raise NotFound(404, "upload_gone", f"The upload went away after {offset} bytes.", hint="Start it again.")
        return found


def _may_go_on(error: ProblemError | ConnectionFailed) -> bool:
    return worth_another_try(error) or (isinstance(error, ProblemError) and error.status in _OUT_OF_STEP)


class _Remembered:
    """Where an upload goes on in another process: a small file, named for the service and the file sent to it.

    Where none can be kept, as in a home that is not to be written, a cut upload begins anew in another process.
    """

    def __init__(self, url: str, path: Path) -> None:
        status, base = path.stat(), os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        told = json.dumps([url, str(path.resolve()), status.st_size, status.st_mtime_ns])
        self._file = Path(base) / "winnow" / "uploads" / hashlib.sha256(told.encode()).hexdigest()

    def location(self) -> str | None:
        try:
            return self._file.read_text()
        except OSError:
            return None

    def keep(self, location: str) -> None:
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file.write_text(location)

    def forget(self) -> None:
        with suppress(OSError):
            self._file.unlink(missing_ok=True)


def blocks(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(_BLOCK_BYTES), b"")


def sha256_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _hash_to(file: BinaryIO, digest: Any, count: int) -> int:
    """Hash the next ``count`` bytes, or what there is of them; give how many."""
    done = 0
    while done < count and (block := file.read(min(_BLOCK_BYTES, count - done))):
        digest.update(block)
        done += len(block)
    return done


def _silent(_sent: int, _size: int) -> None:
    pass
