"""One piece of an upload on its way: written, hashed and checked as it comes, and kept, or undone, where it is cut."""

import base64
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio

from app.db.tables import UploadRow
from app.domain.errors import ChecksumMismatch, NotFound, TooLarge, TruncatedUpload, WrongOffset
from app.domain.tus import Checksum
from app.drafts import Held, Piece

if TYPE_CHECKING:
    from hashlib import _Hash

    from app.services.resumable import Uploads

_REMEMBERED = 1024
_TOUCH_SECONDS = 60.0


class Digests:
    """The SHA-256 so far of uploads that this process has seen from their start."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[int, _Hash]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, upload_id: str, *, at_most: int) -> "tuple[int, _Hash]":
        """Give how many bytes were hashed, and a hash to go on with."""
        with self._lock:
            size, digest = self._found.pop(upload_id, (0, None))
        # What was hashed beyond was undone since.
        return (size, digest) if digest is not None and size <= at_most else (0, hashlib.sha256())

    def put(self, upload_id: str, size: int, digest: "_Hash") -> None:
        with self._lock:
            self._found[upload_id] = size, digest
            while len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)


class Append:
    """One piece on its way."""

    def __init__(
        self, uploads: "Uploads", row: UploadRow, held: Held, checksum: Checksum | None, ended: anyio.Event
    ) -> None:
        self._uploads = uploads
        self._row = row
        self._held = held
        self._checksum = checksum
        self._check = hashlib.new(checksum.algorithm) if checksum else None
        self._hashed, self._digest = uploads.digests.take(row.id, at_most=row.offset_bytes)
        self._start_digest = self._digest.copy()
        self._start = self._end = row.offset_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._writing = False
        self._heard = self._touched = time.monotonic()
        self._listening = anyio.CancelScope()
        self.ended = ended

    def gives_way(self, silent_seconds: float) -> bool:
        """Stop listening where nothing has come for so long; tell whether that is so."""
        if self._writing or time.monotonic() - self._heard < silent_seconds:
            return False
        self._listening.cancel()
        return True

    async def run(self, body: AsyncIterator[bytes]) -> UploadRow:
        piece = self._held.begin(self._start)
        try:
            with self._listening:
                async for chunk in body:
                    self._heard = time.monotonic()
                    await self._hear(piece, chunk)
            await self._flush(piece)
            self._judge()
            return await self._finish(piece)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                # An object that was broken off has an end that nobody knows.
                torn = self._writing and piece.key is not None
                if torn or self._checksum is not None or isinstance(error, TooLarge | NotFound | WrongOffset):
                    await self._undo(piece)
                else:
                    await self._save(piece)
            raise

    def _judge(self) -> None:
        """Raise where the piece is not whole, or not what its checksum says."""
        if self._listening.cancelled_caught:
            raise TruncatedUpload("Nothing came for a while, and another request goes on with the upload.")
        if self._checksum is not None and self._check is not None:
            found = self._check.digest()
            if found != self._checksum.digest:
                told = base64.b64encode(found).decode()
                raise ChecksumMismatch(f"The {self._checksum.algorithm} of the piece is {told}.")

    async def _hear(self, piece: Piece, chunk: bytes) -> None:
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        if self._end + self._pending_bytes > self._row.size_bytes:
            raise TooLarge(
                f"The piece goes on behind byte {self._row.size_bytes}, where the upload ends by its Upload-Length."
            )
        if self._pending_bytes >= self._uploads.write_bytes:
            await self._flush(piece)
        if time.monotonic() - self._touched > _TOUCH_SECONDS:
            self._touched = time.monotonic()
            await _run(self._uploads.touch, self._row)

    async def _flush(self, piece: Piece) -> None:
        data = b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0
        if data:
            self._writing = True
            await piece.write(data)
            self._writing = False
            await _run(self._update, data)
            self._end += len(data)

    def _update(self, data: bytes) -> None:
        if self._check is not None:
            self._check.update(data)
        if self._hashed == self._end:
            self._digest.update(data)
            self._hashed += len(data)

    async def _finish(self, piece: Piece) -> UploadRow:
        await piece.keep()
        whole = self._end == self._hashed == self._row.size_bytes
        sha256 = self._digest.hexdigest() if whole else None
        row = await _run(self._uploads.finish, self._row, self._end, sha256, piece.key)
        self._uploads.digests.put(row.id, self._hashed, self._digest)
        return row

    async def _save(self, piece: Piece) -> None:
        """Keep what came before the cut."""
        try:
            await self._flush(piece)
            await self._finish(piece)
        except (NotFound, WrongOffset):
            await piece.drop()

    async def _undo(self, piece: Piece) -> None:
        await piece.drop()
        if self._hashed != self._end:  # it had begun further back, or not at all
            self._uploads.digests.put(self._row.id, self._hashed, self._digest)
        else:
            self._uploads.digests.put(self._row.id, self._start, self._start_digest)
        try:
            await _run(self._uploads.finish, self._row, self._start, None, None)
        except (NotFound, WrongOffset):
            return


_run = anyio.to_thread.run_sync
