"""One fresh process for what parses or runs a user's files, and the watch over it.

The process has a session of its own, a cleared environment, no standard input, and dies with
this one. The walls around it are those of ``workers.isolation``; what no limit of the kernel's
covers, the sum over all that it starts and its folder, is watched from here.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from app.domain.task import MESSAGE, DoneMessage, FailureMessage, Message
from app.tether import tethered
from workers.isolation.backends import Isolation
from workers.isolation.policy import Limits, engine_policy
from workers.isolation.usage import Excess, excess

POLL_SECONDS = 0.5
_GRACE_SECONDS = 10.0
_MESSAGE_BYTES = 1 << 20
_LINE_BYTES = 4096
_READ_BYTES = 1 << 16
TURN = b"\n"
"""What tells the child that its turn has come."""
_LAST_BREATH_SECONDS = 5.0
_KILLED_BY = 128
"""What a shell, bubblewrap and our warden add to the signal that ended the process within."""


class ProtocolBreach(Exception):
    """The child wrote to its pipe what is no message."""


@dataclass(frozen=True)
class Sandbox:
    """The walls that this worker puts up, and what a child may use within them.

    For a GPU the limit on address space is left out.
    """

    isolation: Isolation
    limits: Limits

    def wrap(self, argv: Sequence[str], folder: Path, environment: Mapping[str, str], *, gpu: bool) -> list[str]:
        """Hand the folder over to whom the child will be, and give the command that starts it there."""
        policy = engine_policy(replace(self.limits, address_space=not gpu), gpu=gpu)
        policy.hand_over(folder)
        return self.isolation.command(policy, folder, environment, argv)


@dataclass(frozen=True)
class Exit:
    """How the child ended; a negative ``code`` is the signal that killed it, as in ``subprocess``.

    ``stopped`` says that the watcher wished it, ``excess`` what the child used too much of.
    """

    code: int
    stopped: bool
    out_of_memory: bool
    excess: Excess | None

    @property
    def reason(self) -> str:
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        return f"exit status {self.code}"


class Watcher(Protocol):
    """What hears from the child, and decides whether it may go on."""

    def message(self, message: Message) -> None: ...

    def line(self, text: str) -> None: ...

    def must_stop(self) -> bool:
        """Tell whether to kill the child; asked every ``POLL_SECONDS``."""
        ...

    def turn_comes(self) -> bool:
        """Tell whether the turn that the child asked for has just come; asked after each message and then as often."""
        ...


def engine(folder: Path) -> list[str]:
    """Give the command that runs the engine on the task in ``folder``."""
    return [sys.executable, "-m", "workers.compression", str(folder), "--messages-fd"]


def supervise(
    argv: Sequence[str], folder: Path, watcher: Watcher, sandbox: Sandbox, *, threads: int, gpu: bool = False
) -> Exit:
    """Run ``argv`` with the number of its message socket appended, until it ends or must stop.

    Nothing that it started is left behind, also when the watcher raises.

    Raises:
        ProtocolBreach: the child sent what is no message.
    """
    ours, theirs = socket.socketpair()
    writer = theirs.detach()
    memory_kills = _memory_kills()
    variables = environment(folder, threads)
    command = sandbox.wrap([*argv, str(writer)], folder, variables, gpu=gpu)
    with ours, _start(command, folder, variables, writer) as process:
        watch = _Watch(watcher, process.pid, folder, sandbox.limits)
        _listen(process, ours.fileno(), watch)
    code = process.returncode if process.returncode <= _KILLED_BY else _KILLED_BY - process.returncode
    killed_for_memory = code == -signal.SIGKILL and not watch.stopped and _memory_kills() > memory_kills
    return Exit(code, watch.stopped, killed_for_memory or watch.excess is Excess.MEMORY, watch.excess)


@contextmanager
def _start(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], writer: int
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(
            tethered(command),
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            start_new_session=True,
        )
    finally:
        os.close(writer)
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            _await_end_of(process)


def _await_end_of(process: subprocess.Popen[bytes]) -> None:
    """Wait until nobody holds the output any more: what dies with another process dies a little later."""
    assert process.stdout is not None
    deadline = time.monotonic() + _LAST_BREATH_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            if not os.read(process.stdout.fileno(), _READ_BYTES):
                return


def environment(folder: Path, threads: int) -> Mapping[str, str]:
    """Give all that the child finds in its environment: none of the service's own settings or secrets."""
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    return {
        "HOME": str(folder),
        "TMPDIR": str(scratch),
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "USER": "winnow",  # there may be no file of users to look it up in
        "OMP_NUM_THREADS": str(threads),
        # Threads that spin long while they wait take a busy machine's time from each other: on two cores shared with
        # other work a training step of a small CNN took 2,000 ms by default, 400 like this and 240 without any
        # spinning; alone 44, 48 and 51 ms.
        "GOMP_SPINCOUNT": "10000",
        "PYTHONHASHSEED": "0",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        # What transformers would ask for elsewhere it is not to ask for, nor to tell of itself.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


@dataclass
class _Watch:
    """Asks, every ``POLL_SECONDS``, whether the child may go on, and keeps why it may not."""

    watcher: Watcher
    pid: int
    folder: Path
    limits: Limits
    stopped: bool = False
    excess: Excess | None = None

    def must_stop(self) -> bool:
        self.stopped = self.watcher.must_stop()
        if not self.stopped:
            self.excess = excess(self.pid, self.folder, self.limits)
        return self.stopped or self.excess is not None


def _listen(process: subprocess.Popen[bytes], messages: int, watch: _Watch) -> None:
    """Pass on what the child says until it has ended, or must."""
    assert process.stdout is not None
    last_word = None
    for heard in _hear(process.pid, messages, process.stdout.fileno()):
        if heard is None:
            if watch.must_stop() or (last_word is not None and time.monotonic() > last_word + _GRACE_SECONDS):
                return
        elif heard[0] != messages:
            watch.watcher.line(heard[1].decode(errors="replace"))
        elif last_word is None and _tell(watch.watcher, heard[1]):
            last_word = time.monotonic()
        if (heard is None or heard[0] == messages) and watch.watcher.turn_comes():
            with suppress(OSError):  # it may have ended meanwhile
                os.write(messages, TURN)


def _hear(pid: int, messages: int, output: int) -> Iterator[tuple[int, bytes] | None]:
    """Give each line with the pipe it came through, and None every ``POLL_SECONDS``, until the child has ended."""
    ears = {messages: _Ear(_MESSAGE_BYTES), output: _Ear(_LINE_BYTES)}
    end = os.pidfd_open(pid)
    next_poll = 0.0
    with selectors.DefaultSelector() as selector, os.fdopen(end, "rb", buffering=0):
        for fd in (*ears, end):
            selector.register(fd, selectors.EVENT_READ)
        while True:
            ready = [key.fd for key, _ in selector.select(max(0.0, next_poll - time.monotonic()))]
            for fd in ready:
                lines = ears[fd].hear(fd) if fd in ears else []
                if lines is None:
                    selector.unregister(fd)
                yield from ((fd, line) for line in lines or ())
            if ready == [end]:  # a grandchild may keep the pipes open for ever
                yield from ((fd, ear.rest) for fd, ear in ears.items() if ear.rest)
                return
            if time.monotonic() >= next_poll:
                next_poll = time.monotonic() + POLL_SECONDS
                yield None


def _tell(watcher: Watcher, line: bytes) -> bool:
    """Pass a message on; tell whether it was the last."""
    try:
        message = MESSAGE.validate_json(line)
    except ValidationError as error:
        raise ProtocolBreach(f"no message: {line[:200]!r}") from error
    watcher.message(message)
    return isinstance(message, DoneMessage | FailureMessage)


class _Ear:
    """Cuts what comes through a pipe into lines; one that is too long comes in pieces."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rest = b""

    def hear(self, fd: int) -> list[bytes] | None:
        """Read what is there; give the lines now complete, None after the end."""
        data = os.read(fd, _READ_BYTES)
        if not data and not self.rest:
            return None
        *lines, self.rest = (self.rest + (data or b"\n")).split(b"\n")
        if len(self.rest) > self._limit:
            lines.append(self.rest)
            self.rest = b""
        return [line for line in lines if line]


def _memory_kills() -> int:
    """Count the processes that this kernel has killed for want of memory; 0 where it does not tell."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0
