"""Where a worker works: its name, its scratch folders, and the ways to the database and the storage."""

import fcntl
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.db.engine import Sessions
from app.domain.task import OUTPUT_FOLDER, TASK, TASK_FILE, Task
from app.settings import MEASURING_LOCK
from app.storage import Storage
from workers.sandbox import Sandbox, engine

_LOCK = ".lock"
_held: list[IO[str]] = []


@dataclass(frozen=True)
class Timing:
    """How long things last, in seconds; the settings describe them."""

    lease_seconds: float = 60
    checkpoint_seconds: float = 15
    retry_delay_seconds: float = 10


@dataclass(frozen=True)
class Workplace:
    """``stopping`` is set once the worker has to end; ``engine`` gives the command that works on a folder."""

    name: str
    scratch: Path
    sessions: Sessions
    storage: Storage
    sandbox: Sandbox
    stopping: threading.Event
    signing_key: Path
    engine: Callable[[Path], list[str]] = engine
    timing: Timing = Timing()
    measuring_lock: Path = MEASURING_LOCK
    """What whoever measures on this host holds."""

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Make an empty folder for one child; it goes with all it holds."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        # Never the folder of another attempt: that may still be cleared away.
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch))
        (folder / OUTPUT_FOLDER).mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def own_scratch(root: Path, name: str) -> Path:
    """Make the scratch folder of one worker, held while the process lives, and clear those of dead ones away."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for lock in root.glob(f"*{_LOCK}"):
        with lock.open("w") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    lock = root / f"{name}{_LOCK}"
    file = lock.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    _held.append(file)
    return lock.with_suffix("")


def write_task(folder: Path, task: Task) -> None:
    (folder / TASK_FILE).write_bytes(TASK.dump_json(task))
