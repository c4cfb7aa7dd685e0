"""A worker's own ``/healthz`` and ``/readyz``, for whatever keeps workers running; nothing can be changed there."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from sqlalchemy import Engine

from app.services import readiness
from app.settings import Settings
from workers.workplace import Workplace

_CLIENT_SECONDS = 5.0
_FINE = "ok"

Word = Literal["ready", "unready", "starting", "stopping"]


class Activity:
    """What a worker is at: consuming or not yet, and whether its one task runs."""

    consuming = False
    busy = False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self.busy = True
        try:
            yield
        finally:
            self.busy = False


@dataclass(frozen=True)
class Readiness:
    """What ``/readyz`` tells; ``parts`` says of each that the worker needs what is wrong with it."""

    status: Word
    worker: str
    queue: str
    isolation: str
    busy: bool
    parts: dict[str, str]


def look(settings: Settings, engine: Engine, workplace: Workplace, queue: str, activity: Activity) -> Readiness:
    """Ask every part that a task would need."""
    faults = readiness.look(settings, engine, workplace.storage)
    status: Word = "unready" if any(faults.values()) else "ready"
    if workplace.stopping.is_set():
        status = "stopping"
    elif not activity.consuming:
        status = "starting"
    parts = {part: fault or _FINE for part, fault in faults.items()}
    isolation = workplace.sandbox.isolation.name
    return Readiness(status, workplace.name, queue, isolation, activity.busy, parts)


def serve(host: str, port: int, ask: Callable[[], Readiness]) -> None:
    """Answer from threads that end with the process. Raises OSError where the port cannot be had."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "winnow", ""
        timeout = _CLIENT_SECONDS

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/healthz":
                    self._answer(HTTPStatus.OK, {"status": "alive"})
                case "/readyz":
                    found = ask()
                    ready = found.status == "ready"
                    self._answer(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, asdict(found))
                case _:
                    self._answer(HTTPStatus.NOT_FOUND, {"status": "unknown path"})

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in http.server
            """Leave out what would be a line for every probe."""

        def _answer(self, status: HTTPStatus, body: dict[str, object]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
