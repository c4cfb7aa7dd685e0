"""A thread that says every few seconds that this worker is alive, and what it serves."""

import threading
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db import workers
from workers.workplace import Workplace

BEAT_SECONDS = 5.0
_TARGETS = {"cpu": ["onnxruntime-cpu"], "gpu": ["onnxruntime-cpu"]}

log = structlog.get_logger()


class Heartbeat:
    """Keeps the worker's row of the ``workers`` table fresh while it lives; a clean end removes it."""

    def __init__(self, workplace: Workplace, queue: str) -> None:
        self._workplace = workplace
        self._queue = queue
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        with self._workplace.sessions.begin() as session:
            workers.gone(session, self._workplace.name)

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            try:
                self._beat()
            except SQLAlchemyError as error:
                log.warning("heartbeat_failed", error=str(error))

    def _beat(self) -> None:
        with self._workplace.sessions.begin() as session:
            workers.seen(
                session,
                self._workplace.name,
                queue=self._queue,
                targets=_TARGETS.get(self._queue, []),
                isolation=self._workplace.sandbox.isolation.name,
                now=datetime.now(UTC),
            )
