"""One measurement at a time on a host: a lock that the kernel takes back from whoever dies with it."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from app.domain.task import TURN_SECONDS

MOST_SECONDS = TURN_SECONDS + 15
"""Who claims to measure for longer is no longer waited for; an honest child has marked its figures by then."""


class Turn:
    """A job's turn to measure: asked for, waited for without the job's time running, and given back."""

    def __init__(self, lock: Path) -> None:
        self._descriptor = _open(lock)
        self._asked_at: float | None = None
        self._granted_at: float | None = None
        self._waited = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @property
    def waited(self) -> float:
        """Give the seconds that were spent on waiting so far."""
        return self._waited + (0.0 if self._asked_at is None else time.monotonic() - self._asked_at)

    def ask(self) -> None:
        """Ask for the turn; who has it or has asked already stays where it is."""
        if self._granted_at is None and self._asked_at is None:
            self._asked_at = time.monotonic()

    def comes(self) -> bool:
        """Take the turn if it was asked for and nobody else on this host has it; tell whether it was taken now."""
        now = time.monotonic()
        if self._granted_at is not None and now - self._granted_at > MOST_SECONDS:
            self.give_back()
        if self._asked_at is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._waited, self._asked_at, self._granted_at = self.waited, None, now
        return True

    def give_back(self) -> None:
        if self._granted_at is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._granted_at = None


def _open(lock: Path) -> int:
    """Open the file that all workers of a host lock, whichever of their users made it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # Without O_CREAT: in a folder for everybody, a kernel may refuse that for a file of another user's.
        return os.open(lock, flags)
    except FileNotFoundError:
        descriptor = os.open(lock, flags | os.O_CREAT, 0o644)
        with suppress(PermissionError):  # another user was quicker
            os.fchmod(descriptor, 0o644)  # whatever this process' umask is
        return descriptor
