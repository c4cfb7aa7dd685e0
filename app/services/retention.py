"""The collector: what has expired is dropped, and contents that nothing refers to go."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice

from app.db import artifacts, projects, retention
from app.db import contents as contents_table
from app.db.engine import Sessions
from app.db.inspections import TABLES
from app.domain.errors import InputExpired
from app.drafts import open_drafts
from app.services import contents, resumable
from app.settings import Settings
from app.storage import Storage, split_key

_BATCH = 100
_GRACE = timedelta(hours=1)
"""A content younger than this may belong to an upload or a delivery whose row is still to be written."""
_STALE = timedelta(days=1)
"""What nobody has written to for so long is no longer being stored."""


@dataclass
class Freed:
    """What one collection dropped.

    ``contents`` counts files that nothing refers to any more, ``unfinished`` those that a killed process
    was storing, ``bytes`` the size of both.
    """

    checkpoints: int = 0
    logs: int = 0
    inputs: int = 0
    contents: int = 0
    unfinished: int = 0
    bytes: int = 0

    def as_json(self) -> dict[str, int]:
        return asdict(self)


class Collector:
    """One collection; collectors may run side by side, and beside everything else."""

    def __init__(self, sessions: Sessions, storage: Storage, settings: Settings, now: datetime) -> None:
        self._sessions = sessions
        self._storage = storage
        self._settings = settings
        self._now = now
        self._freed = Freed()

    def collect(self) -> Freed:
        """Drop what has expired and what nothing refers to; tell how much it was."""
        self._freed.checkpoints = self._expire_artifacts("checkpoint", self._settings.checkpoint_days)
        self._freed.logs = self._expire_artifacts("log", self._settings.log_days)
        if self._settings.input_days is not None:
            self._freed.inputs = sum(self._expire_inputs(kind, self._settings.input_days) for kind in TABLES)
        self._drop_unreferenced()
        return self._freed

    def _expire_artifacts(self, kind: str, days: float) -> int:
        before, count = self._now - timedelta(days=days), 0
        while True:
            with self._sessions.begin() as session:
                rows = retention.artifacts(session, kind, before, _BATCH)
                for project_id in sorted({row.project_id for row in rows}):
                    projects.lock(session, project_id)
                for row in rows:
                    artifacts.delete(session, row)
                    if kind == "log":
                        retention.blank_log(session, row.job_id)
            for row in rows:
                self._release(row.project_id, row.sha256, row.size_bytes)
            count += len(rows)
            if len(rows) < _BATCH:
                return count

    def _expire_inputs(self, kind: str, days: float) -> int:
        before, count = self._now - timedelta(days=days), 0
        problem = InputExpired(f"No job has used this {kind} for {days:g} days.", hint="Upload it again.").failure()
        while True:
            with self._sessions.begin() as session:
                found = retention.inputs(session, TABLES[kind], before, _BATCH)
                for project_id in sorted({row.project_id for row in found}):
                    projects.lock(session, project_id)
                # Read again under the lock that every submission takes: a job may have come meanwhile.
                rows = retention.inputs(session, TABLES[kind], before, _BATCH) if found else found
                locked = {row.project_id for row in found}
                rows = [row for row in rows if row.project_id in locked]
                for row in rows:
                    retention.expire_input(session, row, problem)
            for row in rows:
                self._release(row.project_id, row.sha256, row.size_bytes)
            count += len(rows)
            if len(found) < _BATCH:
                return count

    def _drop_unreferenced(self) -> None:
        """Remove contents that a process killed between two steps has left."""
        stored = self._storage.contents_before(self._now - _GRACE)
        # Most are needed: only the others, so many at a look, are worth a transaction of their own.
        while batch := {split_key(key): size_bytes for key, size_bytes in islice(stored, _BATCH)}:
            with self._sessions() as session:
                spare = contents_table.unreferred(session, batch)
            for project_id, sha256 in sorted(spare):
                self._release(project_id, sha256, batch[project_id, sha256])
        self._freed.unfinished, size_bytes = self._storage.sweep(self._now - _STALE)
        self._freed.bytes += size_bytes
        self._freed.unfinished += resumable.clear_orphans(
            self._sessions, open_drafts(self._storage), self._now - _GRACE
        )

    def _release(self, project_id: str, sha256: str, size_bytes: int) -> None:
        if contents.release(self._sessions, self._storage, project_id, sha256):
            self._freed.contents += 1
            self._freed.bytes += size_bytes
