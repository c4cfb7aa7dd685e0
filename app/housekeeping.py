"""A thread beside the API that brings back what was lost and clears away what has expired."""

import threading
import time
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Engine

from app.db.engine import make_sessions
from app.drafts import open_drafts
from app.queue import Relay
from app.services import deliveries, idempotency, recovery, resumable, sweeps
from app.services.retention import Collector
from app.settings import Settings
from app.storage import Storage

_LONGEST_PAUSE_SECONDS = 5.0
_ROUNDS_A_LEASE = 4

log = structlog.get_logger()


class Housekeeper:
    """Reaps, sweeps, forgets and collects in turn; several may run side by side."""

    def __init__(self, settings: Settings, engine: Engine, storage: Storage, relay: Relay) -> None:
        self._settings = settings
        self._readers = make_sessions(engine, read_only=True)
        self._sessions = make_sessions(engine)
        self._storage = storage
        self._drafts = open_drafts(storage)
        self._relay = relay
        self._stopping = threading.Event()
        self._next_collection = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def keep_house(self, now: datetime) -> None:
        """Do one round."""
        lost = recovery.reap(self._readers, self._sessions, now)
        before = now - timedelta(seconds=self._settings.requeue_after_seconds)
        lost += recovery.sweep(self._readers, self._sessions, self._relay.waiting, before, now)
        started = sweeps.advance(self._readers, self._sessions, now, limit=self._settings.max_active_jobs)
        if lost or started:
            self._relay.wake()
        idempotency.clear(self._readers, self._sessions, now)
        resumable.clear_expired(self._sessions, self._readers, self._drafts, now)
        if time.monotonic() > self._next_collection:
            self._next_collection = time.monotonic() + self._settings.collect_seconds
            freed = Collector(self._sessions, self._storage, self._settings, now).collect()
            log.info("collected", **freed.as_json())
            deliveries.forget(self._readers, self._sessions, self._settings.delivery_days, now)

    def _run(self) -> None:
        pause = min(_LONGEST_PAUSE_SECONDS, self._settings.lease_seconds / _ROUNDS_A_LEASE)
        while not self._stopping.wait(pause):
            try:
                self.keep_house(datetime.now(UTC))
            except Exception as error:  # noqa: BLE001  whatever is away, the thread goes on
                log.warning("housekeeping_failing", error=str(error))
