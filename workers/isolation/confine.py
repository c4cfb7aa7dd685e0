"""Put up the walls from inside, then become the program: the last step before a user's file is touched.

A short-lived interpreter runs it between the supervisor and the engine, with the standard library alone,
so that neither a fork of the supervisor nor any of its memory is involved.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from workers.isolation import landlock, seccomp

_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from workers.isolation.confine import main; main()"
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 2
_OUT_OF_MEMORY_FIRST = "1000"


def launcher(argv: Sequence[str], **orders: Any) -> list[str]:
    """Give the command that runs ``argv`` as :func:`main` is ordered to."""
    root = str(Path(__file__).parents[2])
    return [sys.executable, "-I", "-S", "-B", "-c", _BOOT, root, json.dumps(orders), *argv]


def main() -> NoReturn:
    """Limit, confine and execute, as ordered.

    ``limits`` are by name; ``tasks``; the ``user`` to become or null; ``seccomp``; the ``rules`` of Landlock or null.
    """
    orders, argv = json.loads(sys.argv[1]), sys.argv[2:]
    if orders["rules"] is not None:
        _leave_a_warden()
    parent = os.getppid()
    Path("/proc/self/oom_score_adj").write_text(_OUT_OF_MEMORY_FIRST, encoding="ascii")
    if orders["rules"] is not None or orders["user"] is not None:
        _give_up_privileges(orders["user"])
        _tether(parent)
    _limit(orders["limits"], orders["tasks"])
    signals = True
    if orders["rules"] is not None:
        landlock.restrict([(path, rights) for path, rights in orders["rules"]])
        signals = landlock.abi() >= landlock.SCOPES_ABI
    if orders["seccomp"]:
        seccomp.install(signals=signals)
    os.execv(argv[0], argv)  # noqa: S606  the point of it


def _leave_a_warden() -> None:
    """Go on in a child; this process stays outside the walls, and ends the whole group when the supervisor dies.

    Only a process, never a group, can be tethered to another. The filter refuses what leaves the group.
    """
    warden = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getpgrp() != warden:
        os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _end_group)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _tether(warden)
        return
    # The pipes belong to the child: their end is its end.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _tether(parent: int) -> None:
    """Die with the parent; the kernel forgets it where a process becomes another user."""
    _check(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def _end_group(_: int, __: FrameType | None) -> None:
    os.killpg(0, signal.SIGKILL)


def _limit(limits: Mapping[str, int], tasks: int) -> None:
    """Set the ``RLIMIT_*``; that on tasks counts all of the user's, and binds no root but that of a namespace."""
    for name, value in limits.items():
        _lower(getattr(resource, f"RLIMIT_{name}"), value)
    _lower(resource.RLIMIT_NPROC, _tasks_of_user() + tasks)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _tasks_of_user() -> int:
    tasks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.getuid():
                tasks += sum(1 for _ in (folder / "task").iterdir())
        except OSError:  # it has ended
            continue
    return tasks


def _give_up_privileges(user: int | None) -> None:
    """Become a user who may of root's powers only read what root may; without one, give up all that root has.

    The rules or binds tell what there is to read: folders around it may be closed to others.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    kept = 0
    if user is not None:
        kept = 1 << _CAP_DAC_READ_SEARCH
        _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl")
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(libc.capset(header, struct.pack("=6I", kept, kept, kept, 0, 0, 0)), "capset")
    if kept:
        _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH, 0, 0), "prctl")


def _check(result: int, call: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{call} failed")
