"""The bytes of uploads that come in pieces.

In a local folder each piece is appended to one file under ``uploads/``, which is linked to its place among the contents
in the end: every byte is written once. An object store appends to nothing: there each piece is an object, and the whole
is written once more when it is complete.
"""

import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import anyio
import obstore

from app.domain.errors import NotFound, UploadLocked
from app.storage import PART_BYTES, PARTS_IN_FLIGHT, Storage, storing

_FOLDER = "uploads"
_READ_BYTES = 1024**2


class Piece(Protocol):
    """What one request adds; ``key`` names an object of its own, where it is one."""

    key: str | None

    async def write(self, data: bytes) -> None: ...

    async def keep(self) -> None:
        """Make what was written last."""
        ...

    async def drop(self) -> None:
        """Undo what was written."""
        ...


class Held(Protocol):
    """An upload that nobody else writes to."""

    def size_bytes(self) -> int | None:
        """Tell how many bytes are there; null where only the database knows."""
        ...

    def begin(self, start: int) -> Piece: ...


class Drafts(Protocol):
    """The bytes of all uploads underway."""

    def size_bytes(self, upload_id: str) -> int | None: ...

    def hold(self, upload_id: str) -> Any:
        """Give a context manager of Held. Raises UploadLocked where somebody else writes."""
        ...

    def key(self, upload_id: str) -> str | None:
        """Name the object that the whole upload is; null where there is none such."""
        ...

    def read(self, keys: Sequence[str], start: int) -> Iterator[bytes]:
        """Read objects one after the other, the first from a place on."""
        ...

    def remove(self, upload_id: str) -> None: ...

    def stale(self, before: datetime) -> Iterator[str]:
        """Name the uploads with bytes that were written before a time."""
        ...


def open_drafts(storage: Storage) -> Drafts:
    return _Objects(storage) if storage.folder is None else _Files(storage.folder)


class _Files:
    """One file an upload, locked by the process that writes to it: the lock of a killed one is gone with it."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._folder = folder / _FOLDER

    def key(self, upload_id: str) -> str:
        return f"{_FOLDER}/{upload_id}"

    def size_bytes(self, upload_id: str) -> int:
        with suppress(FileNotFoundError):
            return (self._folder / upload_id).stat().st_size
        return 0

    @contextmanager
    def hold(self, upload_id: str) -> Iterator["_HeldFile"]:
        with storing():
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder / upload_id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UploadLocked(
                    "Another request writes to this upload.", hint="Ask for its offset again."
                ) from error
            yield _HeldFile(descriptor)
        finally:
            os.close(descriptor)

    def read(self, keys: Sequence[str], start: int) -> Iterator[bytes]:
        for key in keys:
            try:
                with (self._root / key).open("rb") as file:
                    file.seek(start)
                    while block := file.read(_READ_BYTES):
                        yield block
            except FileNotFoundError as error:
                raise NotFound("The upload has been deleted meanwhile.") from error
            start = 0

    def remove(self, upload_id: str) -> None:
        (self._folder / upload_id).unlink(missing_ok=True)

    def stale(self, before: datetime) -> Iterator[str]:
        if not self._folder.exists():
            return
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < before.timestamp():
                        yield entry.name


class _HeldFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def begin(self, start: int) -> "_Appended":
        if self.size_bytes() != start:
            os.ftruncate(self._descriptor, start)
        return _Appended(self._descriptor, start)


class _Appended:
    key = None

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor = descriptor
        self._start = self._end = start

    async def write(self, data: bytes) -> None:
        await anyio.to_thread.run_sync(self._write, data)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        with storing():
            while left:
                written = os.pwrite(self._descriptor, left, self._end)
                self._end += written
                left = left[written:]

    async def keep(self) -> None:
        """Cut off what a write that failed half-way has left."""

    async def drop(self) -> None:
        os.ftruncate(self._descriptor, self._start)


class _Objects:
    """An object a piece. Two that start at one place may both be written: the database takes one of them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._store = storage.store

    def key(self, upload_id: str) -> None:  # noqa: ARG002 - there is never one
        return None

    def size_bytes(self, upload_id: str) -> None:  # noqa: ARG002
        return None

    @contextmanager
    def hold(self, upload_id: str) -> Iterator["_HeldObjects"]:
        yield _HeldObjects(self._storage, upload_id)

    def read(self, keys: Sequence[str], start: int) -> Iterator[bytes]:
        assert start == 0
        for key in keys:
            try:
                result = obstore.get(self._store, key)
            except FileNotFoundError as error:
                raise NotFound("The upload has been deleted meanwhile.") from error
            for chunk in result.stream(min_chunk_size=_READ_BYTES):
                yield bytes(chunk)

    def remove(self, upload_id: str) -> None:
        for page in obstore.list(self._store, f"{_FOLDER}/{upload_id}"):
            for entry in page:
                self._storage.delete(entry["path"])

    def stale(self, before: datetime) -> Iterator[str]:
        seen: set[str] = set()
        for page in obstore.list(self._store, _FOLDER):
            for entry in page:
                upload_id = entry["path"].split("/")[1]
                if entry["last_modified"] < before and upload_id not in seen:
                    seen.add(upload_id)
                    yield upload_id


class _HeldObjects:
    def __init__(self, storage: Storage, upload_id: str) -> None:
        self._storage = storage
        self._upload_id = upload_id

    def size_bytes(self) -> None:
        return None

    def begin(self, start: int) -> "_Object":
        return _Object(self._storage, f"{_FOLDER}/{self._upload_id}/{start:020d}-{secrets.token_hex(8)}")


class _Object:
    def __init__(self, storage: Storage, key: str) -> None:
        self.key = key
        self._storage = storage
        self._writer: Any = obstore.open_writer_async(
            storage.store, key, buffer_size=PART_BYTES, max_concurrency=PARTS_IN_FLIGHT
        )

    async def write(self, data: bytes) -> None:
        with storing():
            await self._writer.write(data)

    async def keep(self) -> None:
        with storing():
            await self._writer.close()

    async def drop(self) -> None:
        with suppress(OSError, obstore.exceptions.BaseError):
            await self._writer.close()
        await anyio.to_thread.run_sync(self._storage.delete, self.key)


async def in_thread(blocks: Callable[[], Iterator[bytes]]) -> AsyncIterator[bytes]:
    """Read what blocks in a thread, one block at a time."""
    iterator = blocks()
    while (block := await anyio.to_thread.run_sync(next, iterator, None)) is not None:
        yield block
