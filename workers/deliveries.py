"""From the folder of a child into the storage: the files it has announced."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from app.db import artifacts, jobs, projects
from app.db.tables import ArtifactRow, JobRow
from app.domain.errors import ResourceLimitExceeded
from app.domain.ids import Prefix, new_id
from app.domain.manifest import MANIFEST_FILE, SIGNATURE_FILE
from app.domain.task import CHECKPOINT_FILE, LOG_FILE, REPORT_FILE, ArtifactMessage
from app.services import contents
from app.storage import FileChanged, content_key
from workers import outputs
from workers.sandbox import ProtocolBreach
from workers.workplace import Workplace

_OWN_NAMES = (LOG_FILE, CHECKPOINT_FILE, MANIFEST_FILE, SIGNATURE_FILE)
_MOST_FILES = 200
REPORT_BYTES = 64 << 20
"""The service itself reads the report, and whole."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Announcements:
    """The files that one child says it wrote, and how much they are together: no more than its folder may hold.

    The watch over the folder counts blocks, and a file full of holes has none until it is stored.
    """

    def __init__(self, output: Path, limit_bytes: int) -> None:
        self._output = output
        self._limit_bytes = limit_bytes
        self._sizes: dict[str, int] = {}

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that has been announced.

        Raises:
            ProtocolBreach: the name leads out of the folder, or to no regular file.
            ResourceLimitExceeded: it is too large, alone or with those before it.
        """
        if not _NAME.fullmatch(name) or name in _OWN_NAMES:
            raise ProtocolBreach(f"no name of an artifact: {name!r:.200}")
        with outputs.opened_folder(self._output) as folder:
            try:
                file = outputs.open_file(name, folder)
            except FileNotFoundError as error:
                raise ProtocolBreach(f"the artifact {name} is not there") from error
        with file:
            self._count(name, os.fstat(file.fileno()).st_size)
            yield file

    def _count(self, name: str, size_bytes: int) -> None:
        self._sizes[name] = size_bytes
        if len(self._sizes) > _MOST_FILES:
            raise ProtocolBreach(f"more than {_MOST_FILES} artifacts")
        if name == REPORT_FILE and size_bytes > REPORT_BYTES:
            raise ResourceLimitExceeded(f"The report has more than {REPORT_BYTES} bytes.")
        if sum(self._sizes.values()) > self._limit_bytes:
            raise ResourceLimitExceeded(f"The artifacts have more than {self._limit_bytes} bytes together.")


def deliver(workplace: Workplace, job: JobRow, file: IO[bytes], message: ArtifactMessage) -> bool:
    """Keep an open file as an artifact of the job; false where the attempt no longer holds it.

    Raises:
        ProtocolBreach: the child still writes to it.
    """
    try:
        return _deliver(workplace, job, file, message)
    except FileChanged as error:
        raise ProtocolBreach(f"the artifact {message.name} was announced too early: {error}") from error


def _deliver(workplace: Workplace, job: JobRow, file: IO[bytes], message: ArtifactMessage) -> bool:
    storage = workplace.storage
    # Before the transaction, which is to be short; once more within it, should the content have gone meanwhile.
    sha256, size_bytes = storage.store_file(file, job.project_id)
    with workplace.sessions.begin() as session:
        projects.lock(session, job.project_id)
        state = jobs.state_of(session, job.id, job.attempt)
        held = state is not None and not state.ended
        replaced = artifacts.by_name(session, job.id, message.name) if held else None
        if held:
            if not storage.exists(content_key(job.project_id, sha256)):
                again, _ = storage.store_file(file, job.project_id)
                if again != sha256:
                    raise FileChanged("its content changed")
            artifacts.add(
                session,
                ArtifactRow(
                    id=new_id(Prefix.ARTIFACT),
                    project_id=job.project_id,
                    job_id=job.id,
                    name=message.name,
                    kind=message.kind,
                    format=message.format,
                    size_bytes=size_bytes,
                    sha256=sha256,
                    created_at=datetime.now(UTC),
                ),
            )
    stale = sha256 if not held else replaced.sha256 if replaced is not None else sha256
    if not held or stale != sha256:
        contents.release(workplace.sessions, storage, job.project_id, stale)
    return held
