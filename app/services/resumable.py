"""Uploads in pieces: made, written to, cut, gone on with, and turned into a model or a data set.

How far an upload has come stands in its row, except where a process was killed while a piece without a checksum came
in: then the file itself tells. Where a piece came with a checksum, what was not checked is worth nothing.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import anyio
from sqlalchemy.orm import Session

from app.db import resumable
from app.db.engine import Sessions
from app.db.tables import UploadRow
from app.domain.errors import (
    ClientError,
    NotFound,
    UploadIncomplete,
    UploadLocked,
    WrongOffset,
)
from app.domain.ids import Prefix, is_id, new_id
from app.domain.tus import Checksum, parse_details
from app.drafts import Drafts, Held, in_thread, open_drafts
from app.services import audit, limits
from app.services.appending import Append, Digests
from app.services.callers import Caller, hold_open
from app.settings import Settings
from app.storage import Incoming, Storage, check_size

_WRITE_BYTES = 1024**2
_SILENT_SECONDS = 2.0
_SETTLE_SECONDS = 0.5
_BATCH = 100


class Uploads:
    """The uploads of one process."""

    def __init__(
        self,
        sessions: Sessions,
        readers: Sessions,
        storage: Storage,
        settings: Settings,
        *,
        write_bytes: int = _WRITE_BYTES,
        silent_seconds: float = _SILENT_SECONDS,
    ) -> None:
        self.write_bytes = write_bytes
        self.silent_seconds = silent_seconds
        self._writers: dict[str, Append] = {}
        self._coming: dict[str, list[anyio.Event]] = {}
        self.drafts: Drafts = open_drafts(storage)
        self.digests = Digests()
        self.sessions = sessions
        self._readers = readers
        self._storage = storage
        self._settings = settings

    def create(
        self, project_id: str, size_bytes: int, details: str, tell: Callable[[Session, UploadRow], None]
    ) -> None:
        """Begin an upload; ``tell`` is called in the transaction.

        Raises TooLarge, or QuotaReached where its bytes would have no room.
        """
        check_size(size_bytes, self._settings.max_upload_bytes)
        parse_details(details)
        now = datetime.now(UTC)
        row = UploadRow(
            id=new_id(Prefix.UPLOAD),
            project_id=project_id,
            size_bytes=size_bytes,
            details=details,
            created_at=now,
            expires_at=self._expiry(now),
        )
        with self.sessions.begin() as session:
            hold_open(session, project_id)
            limits.check_new_room(session, project_id, size_bytes, self._settings.max_project_bytes)
            resumable.add(session, row)
            tell(session, row)

    def get(self, project_id: str, upload_id: str) -> UploadRow:
        """Read an upload as it stands now; the row is nobody's to save."""
        with self._readers() as session:
            row = self._find(session, project_id, upload_id)
            session.expunge(row)
        row.offset_bytes = _offset(row, self.drafts.size_bytes(upload_id))
        return row

    def list_page(self, project_id: str, *, before: str | None, limit: int) -> Sequence[UploadRow]:
        with self._readers() as session:
            rows = resumable.listed(session, project_id, datetime.now(UTC), before=before, limit=limit)
            for row in rows:
                session.expunge(row)
        for row in rows:
            row.offset_bytes = _offset(row, self.drafts.size_bytes(row.id))
        return rows

    def remove(self, by: Caller, upload_id: str) -> None:
        """End an upload; whoever still writes to it writes to nothing."""
        with self.sessions.begin() as session:
            self._find(session, by.project_id, upload_id)
            resumable.take(session, by.project_id, upload_id)
            audit.record(session, by, "upload.deleted", upload_id, project_id=by.project_id)
        self.drafts.remove(upload_id)

    async def append(
        self, project_id: str, upload_id: str, offset: int, checksum: Checksum | None, body: AsyncIterator[bytes]
    ) -> UploadRow:
        """Add a piece at an offset. What came before a cut stays, unless there is a checksum for the whole piece.

        Raises WrongOffset, UploadLocked, ChecksumMismatch, TooLarge, or NotFound where the upload is gone meanwhile.
        """
        ended = anyio.Event()
        coming = self._coming.setdefault(upload_id, [])
        coming.append(ended)
        try:
            row = await _run(self.get, project_id, upload_id)
            if row.offset_bytes != offset:
                raise _elsewhere(row)
            async with self._held(upload_id, ended) as held:
                row = await _run(self._begin, project_id, upload_id, offset, checksum, held)
                append = self._writers[upload_id] = Append(self, row, held, checksum, ended)
                try:
                    return await append.run(body)
                finally:
                    self._writers.pop(upload_id, None)
        finally:
            ended.set()
            coming.remove(ended)
            if not coming:
                self._coming.pop(upload_id, None)

    async def settle(self, upload_id: str, *, but: anyio.Event | None = None) -> None:
        """Wait a moment for pieces to end: of a connection just cut, what had come is about to be kept."""
        with anyio.move_on_after(_SETTLE_SECONDS):
            for ended in [it for it in self._coming.get(upload_id, ()) if it is not but]:
                await ended.wait()

    @asynccontextmanager
    async def _held(self, upload_id: str, own: anyio.Event) -> AsyncIterator[Held]:
        """Hold an upload; one of this process that has fallen silent gives way, as its connection may be dead."""
        holding = self.drafts.hold(upload_id)
        try:
            held: Held = await _run(holding.__enter__)
        except UploadLocked:
            writer = self._writers.get(upload_id)
            if writer is None:
                raise
            if writer.gives_way(self.silent_seconds):
                await writer.ended.wait()
            await self.settle(upload_id, but=own)
            holding = self.drafts.hold(upload_id)
            held = await _run(holding.__enter__)
        try:
            yield held
        finally:
            with anyio.CancelScope(shield=True):
                await _run(holding.__exit__, None, None, None)

    def _begin(self, project_id: str, upload_id: str, offset: int, checksum: Checksum | None, held: Held) -> UploadRow:
        with self.sessions.begin() as session:
            row = self._find(session, project_id, upload_id, held=True)
            at = _offset(row, held.size_bytes())
            if at != offset:
                raise _elsewhere(row)
            row.offset_bytes, row.checking = at, checksum is not None
            row.expires_at = self._expiry(datetime.now(UTC))
        return row

    def touch(self, row: UploadRow) -> None:
        """Put the end of an upload off while a long piece comes in."""
        with self.sessions.begin() as session:
            values = {"expires_at": self._expiry(datetime.now(UTC))}
            resumable.advance(session, row.id, row.offset_bytes, values)

    def finish(self, row: UploadRow, end: int, sha256: str | None, key: str | None) -> UploadRow:
        """Write down where a piece ended. Raises NotFound or WrongOffset where that is no longer this one's to do."""
        with self.sessions.begin() as session:
            start, expires_at = row.offset_bytes, self._expiry(datetime.now(UTC))
            values = {"offset_bytes": end, "checking": False, "sha256": sha256, "expires_at": expires_at}
            if not resumable.advance(session, row.id, start, values):
                raise _elsewhere(self._find(session, row.project_id, row.id))
            if key is not None and end > start:
                resumable.add_piece(session, row.id, start, key)
        with self._readers() as session:
            return self._find(session, row.project_id, row.id)

    @asynccontextmanager
    async def collected(self, project_id: str, upload_id: str) -> AsyncIterator[Incoming]:
        """Give a whole upload to be kept; it ends once that was done, and stays as it is where it was not.

        Raises UploadIncomplete or UploadLocked, or NotFound where it has been used or deleted meanwhile.
        """
        whole = await _run(self._whole, project_id, upload_id)
        # Whoever writes to it, or makes something of it, holds it.
        holding = self.drafts.hold(upload_id)
        held: Held = await _run(holding.__enter__)
        try:
            # Once the row says that all is there, nobody may write any more.
            row = await _run(self._begin, project_id, upload_id, whole.size_bytes, None, held)
            yield await self._incoming(row)
            await _run(self.drafts.remove, upload_id)
        except (ClientError, FileNotFoundError) as error:
            # What is wrong with the bytes of an upload that is gone is that they are gone.
            await _run(self._check_there, upload_id, error)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await _run(holding.__exit__, None, None, None)

    async def _incoming(self, row: UploadRow) -> Incoming:
        key = self.drafts.key(row.id)
        if key is not None:
            sha256 = row.sha256 if row.sha256 is not None else await _run(self._hash, row, key)
            return Incoming(key, sha256, row.size_bytes, row.id, linked=True)
        keys = await _run(self._piece_keys, row.id)
        whole = await self._storage.receive(in_thread(lambda: self.drafts.read(keys, 0)), limit=row.size_bytes)
        return Incoming(whole.key, whole.sha256, whole.size_bytes, row.id)

    def _whole(self, project_id: str, upload_id: str) -> UploadRow:
        row = self.get(project_id, upload_id)
        if row.offset_bytes < row.size_bytes:
            raise UploadIncomplete(
                f"{row.offset_bytes} of {row.size_bytes} bytes have come.", hint="Send the rest with PATCH."
            )
        return row

    def _check_there(self, upload_id: str, error: Exception) -> None:
        with self._readers() as session:
            if not resumable.known(session, [upload_id]):
                raise NotFound(f"The upload {upload_id} has been used or deleted meanwhile.") from error

    def _hash(self, row: UploadRow, key: str) -> str:
        """Read what this process has not hashed on its way in."""
        size, digest = self.digests.take(row.id, at_most=row.size_bytes)
        for block in self.drafts.read([key], size):
            digest.update(block)
        return digest.hexdigest()

    def _piece_keys(self, upload_id: str) -> Sequence[str]:
        with self._readers() as session:
            return resumable.piece_keys(session, upload_id)

    def _find(self, session: Session, project_id: str, upload_id: str, *, held: bool = False) -> UploadRow:
        known, get = is_id(Prefix.UPLOAD, upload_id), resumable.get_held if held else resumable.get
        row = get(session, project_id, upload_id, datetime.now(UTC)) if known else None
        if row is None:
            raise NotFound(f"There is no upload {upload_id!r}.", hint="It may have expired; begin another.")
        return row

    def _expiry(self, now: datetime) -> datetime:
        return now + timedelta(hours=self._settings.upload_hours)


def clear_expired(sessions: Sessions, readers: Sessions, drafts: Drafts, now: datetime) -> int:
    """End the uploads that nobody went on with; return how many."""
    count = 0
    while True:
        with readers() as session:
            found = resumable.expired(session, now, _BATCH)
        if not found:
            return count
        with sessions.begin() as session:
            gone = resumable.expire(session, found, now)
        for upload_id in gone:
            drafts.remove(upload_id)
        count += len(gone)


def clear_orphans(readers: Sessions, drafts: Drafts, before: datetime) -> int:
    """Remove bytes that a process killed between two steps has left, last written to before a time."""
    count = 0
    for upload_id in drafts.stale(before):
        with readers() as session:
            known = resumable.known(session, [upload_id])
        if not known:
            drafts.remove(upload_id)
            count += 1
    return count


def _offset(row: UploadRow, size_bytes: int | None) -> int:
    """Tell how much of an upload is there, from its row and the size of its file."""
    if size_bytes is None or row.checking:
        return row.offset_bytes
    return min(max(row.offset_bytes, size_bytes), row.size_bytes)


def _elsewhere(row: UploadRow) -> WrongOffset:
    return WrongOffset(f"The upload stands at {row.offset_bytes} bytes.", hint="Ask for its offset with HEAD.")


_run = anyio.to_thread.run_sync
