"""Contents: bytes kept once a project under their SHA-256, in a local folder or an S3 bucket.

Uploads arrive under ``incoming/`` and are promoted to ``projects/<project>/<sha256>`` by a rename,
so that a reader never meets half an object.
"""

import errno
import hashlib
import io
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlparse
from urllib.request import url2pathname

import anyio
import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from app.domain.errors import InternalError, NotFound, StorageFull, TooLarge, Unavailable

_CHUNK_BYTES = 1024**2
# Two parts in flight bound what one upload or download holds in memory.
PART_BYTES = 8 * 1024**2
PARTS_IN_FLIGHT = 2
_INCOMING = "incoming"
_CONTENTS = "projects"
_CONTENT = re.compile(rf"{_CONTENTS}/[^/]+/[0-9a-f]{{64}}")
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
"""What file systems answer that know no hard links."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
# The local store writes beside the object and renames; it lists no name of this form.
_STAGED = re.compile(r".+#\d+")


StoreError = obstore.exceptions.BaseError
"""What the store throws beside the system's own errors."""


class FileChanged(Exception):
    """A file did not hold still while it was stored; nothing of it is kept."""


@dataclass(frozen=True)
class Incoming:
    """An upload that has arrived whole and has no home yet.

    ``upload_id`` names the resumable upload that it came by, ``linked`` tells that its bytes are that upload's own.
    """

    key: str
    sha256: str
    size_bytes: int
    upload_id: str | None = None
    linked: bool = False


class _Writer(Protocol):
    async def write(self, buffer: bytes, /) -> int: ...
    async def close(self) -> None: ...


def content_key(project_id: str, sha256: str) -> str:
    """Give the key under which a project's content is kept."""
    return f"{_CONTENTS}/{project_id}/{sha256}"


def split_key(key: str) -> tuple[str, str]:
    """Give the project and the SHA-256 of a content's key."""
    _, project_id, sha256 = key.split("/")
    return project_id, sha256


def is_full(error: BaseException) -> bool:
    """Tell whether it says that a disk or a quota is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    # The store's own errors carry the system's only in their text.
    text = str(error) if isinstance(error, StoreError) else ""
    return any(f"(os error {number})" in text for number in _FULL)


@contextmanager
def storing() -> Iterator[None]:
    """Say in our own words why something could not be stored."""
    try:
        yield
    except (OSError, StoreError) as error:
        if is_full(error):
            raise StorageFull("There is no room left in the storage.") from error
        raise Unavailable("The storage cannot be written.") from error


def check_size(size_bytes: int, limit: int) -> None:
    """Raise TooLarge above the limit."""
    if size_bytes > limit:
        raise TooLarge(f"The body has more than {limit} bytes, the limit for uploads.")


class Storage:
    """The store of one service, opened by URL: ``file:///folder`` or ``s3://bucket/prefix``.

    Raises Unavailable where the URL is of no store.
    """

    def __init__(self, url: str) -> None:
        self.folder = _folder_of(url)
        if self.folder is not None:
            # What users upload is for the service alone; a folder that is there keeps the mode that it has.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.store: ObjectStore = LocalStore(self.folder) if self.folder else _opened(url)

    async def receive(self, body: AsyncIterator[bytes], *, limit: int) -> Incoming:
        """Write a stream down, hashing it on the way.

        Raises TooLarge above ``limit`` bytes. Nothing stays behind when this fails or the stream breaks.
        """
        key = f"{_INCOMING}/{secrets.token_hex(16)}"
        digest, size = hashlib.sha256(), 0
        writer: _Writer = obstore.open_writer_async(
            self.store, key, buffer_size=PART_BYTES, max_concurrency=PARTS_IN_FLIGHT
        )
        try:
            async for chunk in body:
                size += len(chunk)
                check_size(size, limit)
                digest.update(chunk)
                with storing():
                    await writer.write(chunk)
            with storing():
                await writer.close()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._abandon(writer, key)
            raise
        return Incoming(key, digest.hexdigest(), size)

    async def _abandon(self, writer: _Writer, key: str) -> None:
        # Closing completes the object, in parts or not, in every kind of store; then it can be deleted.
        with suppress(OSError, StoreError):
            await writer.close()
        await anyio.to_thread.run_sync(self.delete, key)

    def promote(self, incoming: Incoming, project_id: str) -> None:
        """Give an upload its home among the project's contents, where it may already stand.

        What is linked keeps its first name too: should the transaction fail, the upload is still there.
        """
        key = content_key(project_id, incoming.sha256)
        if self.exists(key):
            self.discard(incoming)
        elif incoming.linked:
            assert self.folder is not None
            _link(self.folder / incoming.key, self.folder / key)
        else:
            obstore.rename(self.store, incoming.key, key)

    def discard(self, incoming: Incoming) -> None:
        """Delete what has found no home, unless it is a resumable upload's own."""
        if not incoming.linked:
            self.delete(incoming.key)

    def open(self, key: str) -> IO[bytes]:
        """Open an object for reading at any place, without fetching the whole of it."""
        try:
            return io.BufferedReader(_Reader(obstore.open_reader(self.store, key, buffer_size=65536)), 65536)
        except FileNotFoundError as error:
            raise _missing(key) from error

    async def read(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Read the bytes from ``start`` up to ``stop``. Raises NotFound before the first of them."""
        if stop <= start:
            return _nothing()
        try:
            result = await obstore.get_async(self.store, key, options={"range": (start, stop)})
        except FileNotFoundError as error:
            raise _missing(key) from error
        return _chunks(result)

    def read_bytes(self, key: str) -> bytes:
        """Read a small object whole."""
        try:
            return bytes(obstore.get(self.store, key).bytes())
        except FileNotFoundError as error:
            raise _missing(key) from error

    def fetch_to(self, key: str, path: Path) -> None:
        """Copy a content into a file, and check it against the digest in its key."""
        digest = hashlib.sha256()
        try:
            result = obstore.get(self.store, key)
            with path.open("wb") as file:
                for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
        except FileNotFoundError as error:
            raise _missing(key) from error
        except (OSError, StoreError) as error:
            if is_full(error):
                raise StorageFull("The worker has no room left for its inputs.") from error
            raise Unavailable("The storage cannot be read.") from error
        if digest.hexdigest() != key.rpartition("/")[2]:
            path.unlink()
            raise InternalError(f"The stored content {key} is damaged.")

    def store_file(self, file: IO[bytes], project_id: str) -> tuple[str, int]:
        """Keep an open file among the project's contents; return its SHA-256 and size in bytes.

        Raises FileChanged where somebody writes to it meanwhile.
        """
        size_bytes = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256()
        for piece in _pieces(file, size_bytes):
            digest.update(piece)
        key = content_key(project_id, digest.hexdigest())
        if not self.exists(key):
            with storing():
                pieces = _unchanged(_pieces(file, size_bytes), digest.digest())
                obstore.put(self.store, key, pieces, chunk_size=PART_BYTES, max_concurrency=PARTS_IN_FLIGHT)
        return digest.hexdigest(), size_bytes

    def exists(self, key: str) -> bool:
        try:
            obstore.head(self.store, key)
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        with suppress(FileNotFoundError):
            obstore.delete(self.store, key)

    def sweep(self, before: datetime) -> tuple[int, int]:
        """Delete what killed processes left half stored before a time; return how many files, and their bytes.

        Whatever is still being written is younger than its last byte.
        """
        stale = [
            (entry["path"], entry["size"])
            for page in obstore.list(self.store, _INCOMING)
            for entry in page
            if entry["last_modified"] < before
        ]
        for key, _ in stale:
            self.delete(key)
        sizes = [size for _, size in stale]
        # Of an object store, the parts of uploads never completed are the bucket's own to expire.
        if self.folder is not None:
            sizes += _unlink_staged(self.folder, before)
        return len(sizes), sum(sizes)

    def contents_before(self, before: datetime) -> Iterator[tuple[str, int]]:
        """Give the key and the size in bytes of every content that was stored before a time.

        What others have put between them, such as a browser's marks of folders, is left alone.
        """
        for page in obstore.list(self.store, _CONTENTS):
            for entry in page:
                if entry["last_modified"] < before and _CONTENT.fullmatch(entry["path"]):
                    yield entry["path"], entry["size"]

    def check(self) -> None:
        """Write, read and delete a small object. Raises Unavailable where any of it fails."""
        key = f"{_INCOMING}/probe-{secrets.token_hex(8)}"
        with storing():
            obstore.put(self.store, key, b"ready")
            self.delete(key)


class _Reader(io.RawIOBase):
    """An object of the store as a raw file."""

    def __init__(self, reader: "obstore.ReadableFile") -> None:
        super().__init__()
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = bytes(self._reader.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def _opened(url: str) -> ObjectStore:
    try:
        return from_url(url)
    except (StoreError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise Unavailable(
            f"WINNOW_STORAGE_URL is no storage ({why}). Give file:///folder or s3://bucket/prefix."
        ) from error


def _folder_of(url: str) -> Path | None:
    parsed = urlparse(url)
    return Path(url2pathname(parsed.path)) if parsed.scheme == "file" else None


def _pieces(file: IO[bytes], size_bytes: int) -> Iterator[bytes]:
    """Read a file from its start, and no further than the size it is to have."""
    file.seek(0)
    left = size_bytes
    while left and (piece := file.read(min(left, _CHUNK_BYTES))):
        left -= len(piece)
        yield piece
    if left or os.fstat(file.fileno()).st_size != size_bytes:
        raise FileChanged("its size changed")


def _unchanged(pieces: Iterator[bytes], sha256: bytes) -> Iterator[bytes]:
    """Pass a content on, and break off before its end where it is not the one hashed before."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    if digest.digest() != sha256:
        raise FileChanged("its content changed")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise NotFound("The upload has been deleted meanwhile.") from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise Unavailable("The storage cannot be written.") from error
        source.rename(target)


def _unlink_staged(folder: Path, before: datetime) -> Iterator[int]:
    """Remove files that a killed process was writing, last touched before a time; give the size of each."""
    for _, _, names, descriptor in os.fwalk(folder):
        for name in filter(_STAGED.fullmatch, names):
            # One that its writer has just finished or dropped is gone.
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if status.st_mtime < before.timestamp():
                    os.unlink(name, dir_fd=descriptor)
                    yield status.st_size


def _missing(key: str) -> NotFound:
    return NotFound(f"The content {key.rpartition('/')[2]} is no longer kept.")


async def _chunks(result: "obstore.GetResult") -> AsyncIterator[bytes]:
    async for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
        yield bytes(chunk)


async def _nothing() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for chunk in empty:
        yield chunk
