"""What a confined process may use: the files it reads, the devices it drives, and how much of the machine."""

import compileall
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import app
import workers

GIBIBYTE = 1024**3

ADDRESS_SPACE_OVERHEAD_BYTES = 8 * GIBIBYTE
"""Address space beyond the memory that may be touched: libraries, thread stacks, arenas and mapped data sets.

Importing torch and ONNX Runtime and exporting a network takes 1.1 GiB of it on two threads.
"""
_CODE = tuple(Path(package.__path__[0]) for package in (app, workers))
_OPEN_FILES = 1024
_TASKS = 512
_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache")
_GPU_FILES = ("/sys", "/usr/local/cuda", "/usr/local/nvidia")
_JOB_USERS = range(60706, 61184)
"""Numbers that neither people nor services get (systemd's UIDS-GIDS); one worker process, one number."""
_TOPOLOGY = ("/sys/devices/system/cpu", "/sys/devices/system/node")
_ENERGY = ("/sys/class/powercap", "/sys/devices/virtual/powercap")
"""Counters of energy: most systems let only root read them, and no process within the walls is root."""


@dataclass(frozen=True)
class Limits:
    """How much a confined process and its children may use; ``tasks`` are processes and threads together.

    Without ``address_space`` there is no limit on it: a GPU's driver reserves more of it than there is memory.
    """

    memory_bytes: int
    disk_bytes: int
    tasks: int = _TASKS
    address_space: bool = True

    def of_a_process(self) -> dict[str, int]:
        """Give the ``RLIMIT_*`` by name; those of the tree as a whole are for the supervisor to watch."""
        limits = {"CORE": 0, "FSIZE": self.disk_bytes, "MSGQUEUE": 0, "NOFILE": _OPEN_FILES}
        if self.address_space:
            limits["AS"] = self.memory_bytes + ADDRESS_SPACE_OVERHEAD_BYTES
        return limits


@dataclass(frozen=True)
class Policy:
    """``readable`` and ``devices`` exist, and are all there is beside the folder of the process.

    ``user`` is whom the process becomes, null where it stays who this one is.
    """

    limits: Limits
    readable: tuple[Path, ...]
    devices: tuple[Path, ...] = ()
    user: int | None = None

    def hand_over(self, folder: Path) -> None:
        """Give a folder and all that is in it to the user of the process; links are not followed."""
        if self.user is None:
            return
        for entry in (folder, *folder.rglob("*")):
            os.chown(entry, self.user, self.user, follow_symlinks=False)


def engine_policy(limits: Limits, *, gpu: bool = False) -> Policy:
    """Allow what the engine needs: the interpreter, its packages, our code, and the shape of the processor."""
    python = [Path(sys.prefix), Path(sys.base_prefix), Path(os.path.realpath(sys.executable))]
    system = [Path(path) for path in (*_SYSTEM_LIBRARIES, *(_GPU_FILES if gpu else _TOPOLOGY), *_ENERGY)]
    devices = sorted(Path("/dev").glob("nvidia*")) if gpu else []
    readable = dict.fromkeys(path for path in (*system, *python, *_CODE) if path.exists())
    return Policy(limits, tuple(readable), tuple(devices), job_user())


def job_user() -> int | None:
    """Give root a user for what it confines, as the kernel limits the processes of every user but root.

    Null for any other user, and where root is one of a namespace that lacks the number: the limit binds those.
    """
    user = _JOB_USERS[os.getpid() % len(_JOB_USERS)]
    if os.getuid() != 0:
        return None
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()]
    mapped = any(int(first) <= user < int(first) + int(count) for first, _, count in ranges)
    return user if mapped else None


def compile_code() -> None:
    """Compile our code where that is allowed: within the walls it is read-only, and each child would do it again."""
    for folder in _CODE:
        compileall.compile_dir(folder, quiet=2)
