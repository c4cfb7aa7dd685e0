"""A thread beside the API that carries what is due to webhooks."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import structlog
from sqlalchemy import Engine

from app.db.engine import make_sessions
from app.posting import Policy, Poster
from app.services import deliveries
from app.services.deliveries import Bounds, Parcel
from app.settings import Settings

_POLL_SECONDS = 0.5
_AWAY_SECONDS = 5.0
_LEASE_SLACK = timedelta(seconds=10)
_STOP_SECONDS = 2.0

log = structlog.get_logger()


def _now() -> datetime:
    return datetime.now(UTC)


class Courier:
    """Sends in an event loop of its own; several may run side by side, and a delivery has one of them at a time.

    What a process had underway when it was killed is due again when its lease is over.
    """

    def __init__(
        self, settings: Settings, engine: Engine, *, bounds: Bounds | None = None, clock: Callable[[], datetime] = _now
    ) -> None:
        self._readers = make_sessions(engine, read_only=True)
        self._sessions = make_sessions(engine)
        self._bounds = bounds or Bounds()
        self._clock = clock
        policy = Policy(
            private=settings.webhook_private_addresses,
            redirects=settings.webhook_redirects,
            timeout_seconds=settings.webhook_timeout_seconds,
        )
        self._poster = Poster(policy)
        self._lease = timedelta(seconds=policy.timeout_seconds) + _LEASE_SLACK
        self._headers = {"content-type": "application/json", "user-agent": f"Winnow/{version('winnow')}"}
        self._underway: dict[str, Parcel] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._stopping = False
        # Of its own, so that no one's request waits for it, nor it for them.
        self._database = ThreadPoolExecutor(1, "courier-database")
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is underway has a moment to end."""
        self._stopping = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._database.shutdown()

    def _run(self) -> None:
        asyncio.run(self._carry())

    async def _carry(self) -> None:
        self._loop = asyncio.get_running_loop()
        ended: asyncio.Task[Any] = asyncio.create_task(self._ended.wait())
        tasks: set[asyncio.Task[Any]] = set()
        while not self._stopping:
            pause = _POLL_SECONDS
            try:
                for parcel in await self._take():
                    self._underway[parcel.delivery.id] = parcel
                    task: asyncio.Task[Any] = asyncio.create_task(self._deliver(parcel))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            except Exception as error:  # noqa: BLE001  whatever the database throws, the thread goes on
                log.warning("courier_failing", error=str(error))
                pause = _AWAY_SECONDS
            # Until there may be room for more, or something new.
            await asyncio.wait({*tasks, ended}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        for task in (*tasks, ended):
            task.cancel()
        await asyncio.gather(*tasks, ended, return_exceptions=True)

    async def _take(self) -> list[Parcel]:
        now = self._clock()
        return await asyncio.get_running_loop().run_in_executor(
            self._database,
            lambda: deliveries.take(
                self._readers, self._sessions, dict(self._underway), self._bounds, now, now + self._lease
            ),
        )

    async def _deliver(self, parcel: Parcel) -> None:
        try:
            content = parcel.content()
            headers = self._headers | parcel.headers(content, self._clock())
            outcome = await self._poster.post(parcel.webhook.url, headers, content.encode())
            await asyncio.get_running_loop().run_in_executor(
                self._database, lambda: deliveries.settle(self._sessions, parcel, outcome, self._clock())
            )
        except Exception as error:  # noqa: BLE001  its lease ends, and it is tried again
            log.warning("webhook_attempt_lost", delivery_id=parcel.delivery.id, error=str(error))
        finally:
            self._underway.pop(parcel.delivery.id, None)
