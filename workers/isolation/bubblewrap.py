"""Namespaces of its own for a process: nothing is there but what is bound into them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which

from workers.isolation.confine import launcher
from workers.isolation.policy import Policy

_OPTIONS = ("--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL")
_BECOME_A_USER = ("CAP_SETUID", "CAP_SETGID", "CAP_DAC_READ_SEARCH")


def command(policy: Policy, folder: Path, environment: Mapping[str, str], argv: Sequence[str]) -> list[str]:
    """Wrap ``argv``: it finds ``folder`` to write into, what the policy lists to read, and no other file.

    The roots of files and of devices are read-only in the end: what is written there would be memory
    that no process is charged for. Root makes no namespace of users: it has one user in it, and the process
    is to become another.
    """
    limits = policy.limits
    spaces, powers = ["--unshare-all"], []
    if policy.user is not None:
        spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        powers = [word for power in _BECOME_A_USER for word in ("--cap-add", power)]
    binds = [word for path in _outermost(policy.readable) for word in _readable(path)]
    devices = [word for path in policy.devices for word in ("--dev-bind", str(path), str(path))]
    variables = [word for name, value in environment.items() for word in ("--setenv", name, value)]
    return [
        which("bwrap") or "bwrap",
        *spaces,
        *_OPTIONS,
        *powers,
        *variables,
        *("--proc", "/proc", "--dev", "/dev"),
        *devices,
        *binds,
        *("--bind", str(folder), str(folder), "--chdir", str(folder)),
        *("--remount-ro", "/dev", "--remount-ro", "/"),
        "--",
        *launcher(argv, limits=limits.of_a_process(), tasks=limits.tasks, user=policy.user, rules=None, seccomp=True),
    ]


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Leave out what comes with a folder around it."""
    return [path for path in paths if not any(other in path.parents for other in paths)]


def _readable(path: Path) -> list[str]:
    """Bind a path, or make the link that it is, so that /lib stays /usr/lib where the host has it so."""
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)]
