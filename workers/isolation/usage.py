"""What a confined process and its children use together, where no limit of the kernel's covers the sum."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import psutil

from workers.isolation.policy import Limits

_MOST_ENTRIES = 10_000
_BLOCK_BYTES = 512
_CHARGED = ("RssAnon", "RssShmem", "VmSwap")


class Excess(StrEnum):
    """What there is too much of."""

    MEMORY = "memory"
    TASKS = "tasks"
    DISK = "disk"


def excess(pid: int, folder: Path, limits: Limits) -> Excess | None:
    """Tell what a process, all that it started and its folder have too much of, if anything."""
    members = tree(pid)
    memory_bytes, tasks = usage(members)
    if tasks > limits.tasks:  # first: pages that forks share are counted with each
        return Excess.TASKS
    if memory_bytes > limits.memory_bytes:
        return Excess.MEMORY
    if _holds_more(folder, limits.disk_bytes - sum(map(_deleted_bytes, members))):
        return Excess.DISK
    return None


def tree(pid: int) -> list[int]:
    """Give a process and all its descendants; nothing where it has ended."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def usage(pids: Iterable[int]) -> tuple[int, int]:
    """Give the bytes of memory that processes hold, and how many processes and threads they are.

    Memory is what only their end or swapping would free: pages of mapped files are not counted.
    """
    memory_bytes = tasks = 0
    for pid in pids:
        status = _status(pid)
        memory_bytes += sum(int(status[name].split()[0]) * 1024 for name in _CHARGED if name in status)
        tasks += int(status.get("Threads", 0))
    return memory_bytes, tasks


def _deleted_bytes(pid: int) -> int:
    """Give the room of files that a process keeps open or mapped though they are in no folder any more."""
    total_bytes = 0
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            status = descriptor.stat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                total_bytes += status.st_blocks * _BLOCK_BYTES
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.endswith(" (deleted)"):
                start, end = line.split(maxsplit=1)[0].split("-")
                total_bytes += int(end, 16) - int(start, 16)
    return total_bytes


def _status(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return {}
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _holds_more(folder: Path, limit_bytes: int) -> bool:
    """Tell whether a folder takes more room, or has more entries, than it may; look no further than that."""
    total_bytes = 0
    for entries, status in enumerate(_walk(folder)):
        total_bytes += status.st_blocks * _BLOCK_BYTES
        if total_bytes > limit_bytes or entries >= _MOST_ENTRIES:
            return True
    return False


def _walk(folder: Path) -> Iterator[os.stat_result]:
    """Give the status of all that is in a folder, links unfollowed; what vanishes meanwhile is left out."""
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    yield entry.stat(follow_symlinks=False)
        except OSError:
            continue
