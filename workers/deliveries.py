"""From the folder of a child into the storage: the files it has announced."""

import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

from app.db import artifacts, jobs, projects
from app.db.tables import ArtifactRow, JobRow
from app.domain.ids import Prefix, new_id
from app.domain.task import CHECKPOINT_FILE, LOG_FILE, ArtifactMessage
from app.services import contents
from app.storage import content_key
from workers.sandbox import ProtocolBreach
from workers.workplace import Workplace

_OWN_NAMES = (LOG_FILE, CHECKPOINT_FILE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def announced_file(output: Path, name: str) -> Path:
    """Find a file that the child says it wrote.

    Raises:
        ProtocolBreach: the name leads out of the folder, or to no regular file.
    """
    path = output / name
    if not _NAME.fullmatch(name) or name in _OWN_NAMES or output.is_symlink():
        raise ProtocolBreach(f"no name of an artifact: {name!r:.200}")
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise ProtocolBreach(f"the artifact {name} is not there") from error
    if not stat.S_ISREG(mode):
        raise ProtocolBreach(f"the artifact {name} is no regular file")
    return path


def deliver(workplace: Workplace, job: JobRow, path: Path, message: ArtifactMessage) -> bool:
    """Keep a file as an artifact of the job; false where the attempt no longer holds it."""
    storage = workplace.storage
    # Before the transaction, which is to be short; once more within it, should the content have gone meanwhile.
    sha256, size_bytes = storage.store_file(path, job.project_id)
    with workplace.sessions.begin() as session:
        projects.lock(session, job.project_id)
        state = jobs.state_of(session, job.id, job.attempt)
        held = state is not None and not state.ended
        replaced = artifacts.by_name(session, job.id, message.name) if held else None
        if held:
            if not storage.exists(content_key(job.project_id, sha256)):
                storage.store_file(path, job.project_id)
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
