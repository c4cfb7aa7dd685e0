"""The way to the workers: messages leave the outbox after the commit and go out by task name."""

import threading
import time
from contextlib import suppress
from typing import Any

import structlog
from celery import Celery
from sqlalchemy import Engine

from app.db import outbox
from app.db.engine import make_sessions
from app.settings import Settings

TRANSPORT: dict[str, Any] = {
    # On Redis 0 is served first, and each step is a list of its own.
    "priority_steps": list(range(10)),
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
}
ANSWER_SECONDS = 5.0
"""A broker that says nothing for so long is away, though its connection is not cut: its host may be gone."""
_BATCH = 100
_POLL_SECONDS = 1.0
_GATHER_SECONDS = 0.05

log = structlog.get_logger()


def broker_priority(priority: int) -> int:
    """Turn a job's priority, where 9 is served first, into the broker's."""
    return 9 - priority


class Relay:
    """A thread that publishes what stands in the outbox: at once when woken, else every second.

    A message whose publishing fails stays and is tried again; relays may run side by side.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._readers = make_sessions(engine, read_only=True)
        self._sessions = make_sessions(engine)
        self._celery = Celery("winnow", broker=settings.broker_url, set_as_current=False)
        options = {**TRANSPORT, "socket_timeout": ANSWER_SECONDS}
        self._celery.conf.update(broker_transport_options=options, task_serializer="json", task_ignore_result=True)
        self._producer: Any = None
        self._awake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Tell that a message was committed."""
        self._awake.set()

    def stop(self) -> None:
        """End the thread; what it has not published stays in the outbox."""
        self._stopping = True
        self._awake.set()
        self._thread.join()
        self._disconnect()
        self._celery.close()

    def publish(self) -> int:
        """Publish the oldest messages and return their number; on an error they all stay."""
        try:
            # A broker that is away is met here: within the transaction it would hold SQLite's one lock for seconds.
            producer = self._connected()
            with self._sessions.begin() as session, producer.batch():
                rows = outbox.take(session, _BATCH)
                for row in rows:
                    self._celery.send_task(
                        row.task,
                        kwargs=row.payload,
                        queue=row.queue,
                        priority=broker_priority(row.priority),
                        producer=producer,
                        retry=False,
                    )
        except Exception:
            self._disconnect()
            raise
        return len(rows)

    def _any_due(self) -> bool:
        """Look without taking anything, which on SQLite would keep writers out every second."""
        with self._readers() as session:
            return outbox.any_due(session)

    def _connected(self) -> Any:
        """Give a producer whose connection works; it is kept, as to connect takes longer than to publish."""
        if self._producer is not None:
            try:
                self._producer.channel.client.ping()
            except Exception as error:  # noqa: BLE001  whatever it is that ended the connection
                log.info("broker_connection_lost", error=str(error))
                self._disconnect()
        if self._producer is None:
            connection = self._celery.connection_for_write()
            connection.ensure_connection(max_retries=1, interval_start=0)
            self._producer = self._celery.amqp.Producer(connection, auto_declare=False)
        return self._producer

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Exception):
                producer.connection.release()

    def waiting(self, queue: str) -> int:
        """Count the messages that the broker holds for a queue."""
        with self._celery.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            # Priorities are lists of their own, which the transport adds up.
            return connection.default_channel.queue_declare(queue=queue).message_count

    def _run(self) -> None:
        failing = False
        while not self._stopping:
            woken = self._awake.wait(_POLL_SECONDS)
            if woken and not self._stopping:
                # What is committed in this moment goes out at once.
                time.sleep(_GATHER_SECONDS)
            self._awake.clear()
            try:
                more = woken or self._any_due()
                while more and not self._stopping:
                    more = self.publish() == _BATCH
            except Exception as error:  # noqa: BLE001  whatever the database or the broker throws, the thread goes on
                if not failing:
                    log.warning("relay_failing", error=str(error))
                failing = True
                continue
            if failing:
                log.info("relay_recovered")
            failing = False
