"""What an attempt needs to go on where another was killed, from its folder into the storage and back.

The child writes and replaces files in its checkpoints folder as it likes; folders within are left out.
All of them together are kept as one artifact, of which only the last stands; a worker on another host
finds it there.
"""

import os
import shutil
import stat
import tarfile
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import structlog

from app.db import artifacts
from app.db.tables import JobRow
from app.domain.errors import ResourceLimitExceeded, WinnowError
from app.domain.task import CHECKPOINT_FILE, CHECKPOINTS_FOLDER, ArtifactMessage
from app.storage import content_key
from workers import deliveries, outputs
from workers.lease import DATABASE_AWAY
from workers.sandbox import ProtocolBreach
from workers.workplace import Workplace

_MESSAGE = ArtifactMessage(name=CHECKPOINT_FILE, kind="checkpoint", format="tar")
_Signature = frozenset[tuple[str, int, int, int]]
_NOTHING: _Signature = frozenset()

log = structlog.get_logger()


class Checkpoints:
    """Keeps the checkpoints of one attempt every few seconds where they have changed, from a thread of its own."""

    def __init__(self, workplace: Workplace, job: JobRow, folder: Path) -> None:
        self._workplace = workplace
        self._job = job
        self._folder = folder / CHECKPOINTS_FOLDER
        self._kept = _NOTHING
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"checkpoints {job.id}", daemon=True)

    def __enter__(self) -> Self:
        """Lay down what an earlier attempt left, then watch."""
        self._folder.mkdir()
        self._restore()
        self._kept = _signature(self._folder)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def keep(self) -> None:
        """Store the checkpoints where they have changed; one that cannot be stored costs only time later."""
        try:
            signature = _signature(self._folder)
            if signature in (self._kept, _NOTHING):
                return
            with tempfile.TemporaryFile(dir=self._workplace.scratch) as file:
                _pack(self._folder, file, self._workplace.sandbox.limits.disk_bytes)
                # What was replaced meanwhile may not fit together: the next round finds it whole.
                if _signature(self._folder) == signature:
                    deliveries.deliver(self._workplace, self._job, file, _MESSAGE)
                    self._kept = signature
        except (OSError, ProtocolBreach, WinnowError, *DATABASE_AWAY) as error:
            log.warning("checkpoint_not_kept", job_id=self._job.id, error=str(error))

    def _restore(self) -> None:
        with self._workplace.sessions.begin() as session:
            row = artifacts.by_name(session, self._job.id, CHECKPOINT_FILE)
        if row is None:
            return
        with tempfile.TemporaryDirectory(dir=self._workplace.scratch) as scratch:
            path = Path(scratch) / CHECKPOINT_FILE
            try:
                self._workplace.storage.fetch_to(content_key(self._job.project_id, row.sha256), path)
                with tarfile.open(path) as archive:
                    archive.extractall(self._folder, filter="data")
            except (WinnowError, tarfile.TarError) as error:
                # Without it the job takes longer and comes to the same.
                log.warning("checkpoint_not_restored", job_id=self._job.id, error=str(error))
                shutil.rmtree(self._folder)
                self._folder.mkdir()
            else:
                log.info("checkpoint_restored", job_id=self._job.id, attempt=self._job.attempt)

    def _run(self) -> None:
        while not self._ended.wait(self._workplace.timing.checkpoint_seconds):
            self.keep()


def _signature(folder: Path) -> _Signature:
    """Tell one set of files from another by name, inode, size and time."""
    found = set()
    with outputs.opened_folder(folder) as descriptor:
        for name in _names(descriptor):
            with suppress(OSError):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found.add((name, status.st_ino, status.st_size, status.st_mtime_ns))
    return frozenset(found)


def _pack(folder: Path, target: IO[bytes], limit_bytes: int) -> None:
    """Write the regular files of a folder into an archive; what the child made a link is left out.

    Raises:
        ResourceLimitExceeded: they are more than they may be, as files full of holes can.
    """
    total_bytes = 0
    with outputs.opened_folder(folder) as descriptor, tarfile.open(fileobj=target, mode="w") as archive:
        for name in _names(descriptor):
            with suppress(FileNotFoundError, ProtocolBreach), outputs.open_file(name, descriptor) as file:
                member = tarfile.TarInfo(name)
                member.size = os.fstat(file.fileno()).st_size
                total_bytes += member.size
                if total_bytes > limit_bytes:
                    raise ResourceLimitExceeded(f"The checkpoints have more than {limit_bytes} bytes.")
                archive.addfile(member, file)
    target.flush()


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)
