"""One look at the database, ten times a second, for all who wait: listeners of jobs, and answers to come.

A thousand listeners cost what one does: what they wait for is asked for together, and an event is read and written
out once for all of them. Nobody has a queue of its own, so that one who reads slowly holds up nobody and costs nothing.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic

import structlog
from sse_starlette.sse import AppStatus

from app.api.schemas import EventOut
from app.db.engine import Sessions
from app.db.tables import EventRow
from app.services import callers, watching
from app.services.callers import Caller
from app.services.watching import GONE, Mark

POLL_SECONDS = 0.1
_KEYS_SECONDS = 0.5
_AWAY_SECONDS = 1.0
_BATCH = 500
_BACKLOG_BYTES = 256 * 1024

log = structlog.get_logger()

Line = tuple[int, bytes]
"""An event's id, and the event as it is sent."""


@dataclass(eq=False)
class Topic:
    """An object that somebody waits for: how it was when last looked at, null before that.

    ``lines`` are the last of a job's events, without a gap up to ``last_event_id``, for those who have kept up.
    """

    object_id: str
    mark: Mark | None = None
    last_event_id: int = 0
    lines: deque[Line] = field(default_factory=deque)
    seats: set["Seat"] = field(default_factory=set)
    held_bytes: int = 0

    def extend(self, rows: Sequence[EventRow]) -> None:
        """Take in the events that follow, and let go of the oldest."""
        for row in rows:
            self.lines.append((row.id, written(row)))
            self.held_bytes += len(self.lines[-1][1])
            self.last_event_id = row.id
        while self.held_bytes > _BACKLOG_BYTES:
            self.held_bytes -= len(self.lines.popleft()[1])

    def since(self, event_id: int) -> list[Line] | None:
        """Give the events behind this one; null where they are too many, and the database has to be asked."""
        if event_id >= self.last_event_id:
            return []
        if not self.lines or self.lines[0][0] > event_id + 1:
            return None
        # Who waits needs the last few: look from the end.
        found = deque[Line]()
        for line in reversed(self.lines):
            if line[0] <= event_id:
                break
            found.appendleft(line)
        return list(found)


@dataclass(eq=False)
class Seat:
    """One who waits; ``ended`` once its key has ended, or the server is about to."""

    topic: Topic
    caller: Caller
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    async def turn(self) -> None:
        """Wait until there is something to look at."""
        await self.news.wait()
        self.news.clear()


class Watch:
    """Looks for all seats of this process; it lives in the event loop of the application."""

    def __init__(self, readers: Sessions) -> None:
        self._readers = readers
        self._topics: dict[str, Topic] = {}
        self._wanted = asyncio.Event()
        self._keys_checked = 0.0
        # Of its own: whoever waits for the threads that requests share must not keep the listeners waiting.
        self._thread = ThreadPoolExecutor(1, "watch")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for as long as the block lasts."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._thread.shutdown()

    @contextmanager
    def seat(self, object_id: str, caller: Caller) -> Iterator[Seat]:
        """Wait for a job, a model or a data set, which the caller may see."""
        topic = self._topics.setdefault(object_id, Topic(object_id))
        seat = Seat(topic, caller)
        topic.seats.add(seat)
        if topic.mark is not None:
            seat.news.set()  # others have waited longer: what they were told is news here
        self._wanted.set()
        try:
            yield seat
        finally:
            topic.seats.discard(seat)
            if not topic.seats:
                self._topics.pop(object_id, None)

    @property
    def watched(self) -> int:
        """How many objects somebody waits for."""
        return len(self._topics)

    async def _run(self) -> None:
        failing = False
        while True:
            await self._wanted.wait()
            if not self._topics:
                self._wanted.clear()
                continue
            more = False
            try:
                more = await self._look()
            except Exception as error:  # noqa: BLE001  whatever the database throws, those who wait go on waiting
                if not failing:
                    log.warning("watch_failing", error=str(error))
                failing = True
                await asyncio.sleep(_AWAY_SECONDS)
            else:
                failing = False
            if AppStatus.should_exit:
                _tell([seat for topic in self._topics.values() for seat in topic.seats], ended=True)
            await asyncio.sleep(0 if more else POLL_SECONDS)

    async def _look(self) -> bool:
        """Look once; true where there is more than one look takes."""
        topics = dict(self._topics)
        seats = [seat for topic in topics.values() for seat in topic.seats]
        known = {name: topic.last_event_id if topic.mark else None for name, topic in topics.items()}
        asked: set[Caller] = set()
        if monotonic() - self._keys_checked > _KEYS_SECONDS:
            asked, self._keys_checked = {seat.caller for seat in seats}, monotonic()
        loop = asyncio.get_running_loop()
        seen, ended = await loop.run_in_executor(self._thread, self._read, known, asked)
        for name, (mark, rows) in seen.items():
            topic = topics[name]
            if topic.mark is None:
                topic.last_event_id = mark.last_event_id
            elif mark == topic.mark and not rows:
                continue
            topic.mark = mark
            topic.extend(rows)
            _tell(topic.seats)
        _tell([seat for seat in seats if seat.caller in ended], ended=True)
        return any(len(rows) == _BATCH for _, rows in seen.values())

    def _read(
        self, known: dict[str, int | None], asked: set[Caller]
    ) -> tuple[dict[str, tuple[Mark, Sequence[EventRow]]], set[Caller]]:
        with self._readers() as session:
            # The marks are read before the events: once a job has ended, no event is still to come.
            marks = watching.marks(session, list(known))
            seen: dict[str, tuple[Mark, Sequence[EventRow]]] = {}
            for name, before in known.items():
                mark = marks.get(name, GONE)
                rows: Sequence[EventRow] = ()
                if before is not None and mark.last_event_id > before:
                    rows = watching.events_after(session, name, before, limit=_BATCH)
                seen[name] = mark, rows
            return seen, callers.ended_among(session, asked)


def written(row: EventRow) -> bytes:
    """Write an event out for a stream."""
    event = EventOut.of(row)
    return f"id: {event.id}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()


def _tell(seats: Sequence[Seat] | set[Seat], *, ended: bool = False) -> None:
    for seat in seats:
        seat.ended = seat.ended or ended
        seat.news.set()
