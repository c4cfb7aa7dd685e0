"""Where a worker works: its name, its scratch folders, and the ways to the database and the storage."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.db.engine import Sessions
from app.domain.task import OUTPUT_FOLDER, TASK, TASK_FILE, Task
from app.storage import Storage
from workers.sandbox import Sandbox, engine


@dataclass(frozen=True)
class Workplace:
    """``stopping`` is set once the worker has to end; ``engine`` gives the command that works on a folder."""

    name: str
    scratch: Path
    sessions: Sessions
    storage: Storage
    sandbox: Sandbox
    stopping: threading.Event
    engine: Callable[[Path], list[str]] = engine

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Make an empty folder for one child; it goes with all it holds."""
        folder = self.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        (folder / OUTPUT_FOLDER).mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_task(folder: Path, task: Task) -> None:
    (folder / TASK_FILE).write_bytes(TASK.dump_json(task))
