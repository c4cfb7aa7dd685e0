"""The ways to confine a process, best first, and which of them this machine has."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Literal

from workers.isolation import bubblewrap, landlock
from workers.isolation.confine import launcher
from workers.isolation.policy import GIBIBYTE, Limits, Policy, engine_policy

Command = Callable[[Policy, Path, Mapping[str, str], Sequence[str]], list[str]]

_TRIAL_SECONDS = 20
_TRIAL_LIMITS = Limits(memory_bytes=GIBIBYTE, disk_bytes=1024**2)
_TRIAL = """
import pathlib, socket, sys
pathlib.Path("written").write_text("")
for forbidden in (lambda: open(sys.argv[1]), lambda: open("../outside", "w"), socket.socket):
    try:
        forbidden()
    except OSError:
        continue
    raise SystemExit("a wall is missing")
"""


@dataclass(frozen=True)
class Isolation:
    """A way to start a process within walls: ``command`` wraps what is to run in a folder."""

    name: Literal["bubblewrap", "landlock", "none"]
    command: Command


def _landlock(policy: Policy, folder: Path, _: Mapping[str, str], argv: Sequence[str]) -> list[str]:
    """Confine ``argv`` by path rules and the filter; it sees that other files and processes are there, no more."""
    devices = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", *map(str, policy.devices))
    rules = [
        *((str(path), landlock.READ) for path in policy.readable),
        # Of other processes the kernel tells the confined what anybody sees, never memory, environment or files.
        ("/proc", landlock.READ),
        *((device, landlock.USE_DEVICE) for device in devices),
        (str(folder), landlock.CHANGE),
    ]
    limits = policy.limits
    return launcher(argv, limits=limits.of_a_process(), tasks=limits.tasks, user=policy.user, rules=rules, seccomp=True)


def _none(policy: Policy, _: Path, __: Mapping[str, str], argv: Sequence[str]) -> list[str]:
    """Limit ``argv`` and nothing else."""
    limits = policy.limits
    return launcher(argv, limits=limits.of_a_process(), tasks=limits.tasks, user=None, rules=None, seccomp=False)


BUBBLEWRAP = Isolation("bubblewrap", bubblewrap.command)
LANDLOCK = Isolation("landlock", _landlock)
NONE = Isolation("none", _none)


def probe() -> Isolation:
    """Give the best that works here: each is tried on a process that looks for a gap."""
    return next((isolation for isolation in (BUBBLEWRAP, LANDLOCK) if works(isolation)), NONE)


def works(isolation: Isolation) -> bool:
    """Tell whether a process starts within the walls, and finds them standing."""
    if isolation is BUBBLEWRAP and which("bwrap") is None:
        return False
    if isolation is LANDLOCK and landlock.abi() < landlock.LEAST_ABI:
        return False
    with tempfile.TemporaryDirectory() as outside:
        secret, folder = Path(outside, "secret"), Path(outside, "folder")
        secret.write_text("")
        folder.mkdir()
        argv = [sys.executable, "-I", "-S", "-c", _TRIAL, str(secret)]
        policy = engine_policy(_TRIAL_LIMITS)
        policy.hand_over(folder)
        command = isolation.command(policy, folder, {}, argv)
        try:
            done = subprocess.run(
                command,
                check=False,
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                start_new_session=True,
                timeout=_TRIAL_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0
