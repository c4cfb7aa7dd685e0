"""Start a command so that the kernel kills it when its parent dies, however the parent dies.

Run as a script, between fork and exec: ``preexec_fn`` may deadlock in a process with threads.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tethered(argv: Sequence[str]) -> list[str]:
    """Give the command that runs ``argv``, tethered to the calling process.

    The tether is to the thread that starts the command: that thread must outlive it.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *argv]


def tie(parent: int, fate: signal.Signals) -> None:
    """Have the kernel send the calling process a signal when its parent dies."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, fate, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the kernel was told
        raise SystemExit(1)


def main(parent: int, argv: list[str]) -> None:
    tie(parent, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execvp(argv[0], argv)  # noqa: S606  the point of it


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
