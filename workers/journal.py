"""The events of one running attempt, written a few times a second, and the log file they leave."""

import math
import time
from datetime import UTC, datetime
from typing import IO, Any

from app.db import jobs
from app.db.engine import Sessions
from app.domain.job import EventType, JobState, Stage
from app.domain.task import EventMessage
from workers.sandbox import ProtocolBreach

_LOG_BYTES = 16 << 20
_EVENT_LIMITS = {EventType.LOG: 2_000, EventType.METRIC: 50_000, EventType.STAGE: 1_000}
_TEXT = 4096
_ETA_FROM = 0.02


class Journal:
    """Collects events between two flushes; of progress events in a row the last stays.

    What a child may leave in the database is bounded: events above the limit of their type are
    left out, which one last log event says. The log file has its own, wider bound.
    """

    def __init__(self, sessions: Sessions, job_id: str, attempt: int, log: IO[bytes]) -> None:
        self._sessions = sessions
        self._job_id = job_id
        self._attempt = attempt
        self._pending: list[tuple[EventType, dict[str, Any], datetime]] = []
        self._counts = dict.fromkeys(EventType, 0)
        self._log = log
        self._began = time.monotonic()

    def hear(self, message: EventMessage) -> None:
        """Take an event that the child reports.

        Raises:
            ProtocolBreach: its data is not that of its type.
        """
        try:
            data = _CHECKS[message.type](message.data)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolBreach(f"no {message.type} event: {message.data!r:.200}") from error
        if message.type is EventType.LOG:
            self._write(data["message"])
        elif message.type is EventType.PROGRESS and "eta_seconds" not in data and data["fraction"] >= _ETA_FROM:
            elapsed = time.monotonic() - self._began
            data["eta_seconds"] = round(elapsed * (1 / data["fraction"] - 1), 1)
        self._add(message.type, data)

    def line(self, text: str) -> None:
        """Take a line that the child printed."""
        self._write(text)
        self._add(EventType.LOG, {"level": "info", "message": text})

    def flush(self) -> JobState | None:
        """Write down what was collected; return the job's state, null where the attempt no longer holds it."""
        self._log.flush()
        with self._sessions.begin() as session:
            for type_, data, at in self._pending:
                jobs.append_event(session, self._job_id, self._attempt, type_, data, at)
            state = jobs.state_of(session, self._job_id, self._attempt)
        # Not before the commit: should the database be away, they are written later.
        self._pending = []
        return state

    def _add(self, type_: EventType, data: dict[str, Any]) -> None:
        self._counts[type_] += 1
        limit = _EVENT_LIMITS.get(type_)
        if limit is not None and self._counts[type_] > limit:
            if self._counts[type_] > limit + 1:
                return
            type_, data = EventType.LOG, {"level": "warning", "message": f"Further {type_} events are left out."}
        if type_ is EventType.PROGRESS and self._pending and self._pending[-1][0] is EventType.PROGRESS:
            self._pending.pop()
        self._pending.append((type_, data, datetime.now(UTC)))

    def _write(self, text: str) -> None:
        if self._log.tell() < _LOG_BYTES:
            self._log.write(text.encode(errors="replace") + b"\n")


def _stage(data: dict[str, Any]) -> dict[str, Any]:
    return {"stage": Stage(data["stage"])}


def _progress(data: dict[str, Any]) -> dict[str, Any]:
    fraction = float(data["fraction"])
    if not 0 <= fraction <= 1:
        raise ValueError(fraction)
    taken = {"fraction": fraction, "message": str(data["message"])[:_TEXT]}
    return taken | ({"eta_seconds": _eta(data["eta_seconds"])} if "eta_seconds" in data else {})


def _eta(told: Any) -> float | None:
    """Take the child's own estimate, null where it has none yet."""
    if told is None:
        return None
    seconds = float(told)
    if not 0 <= seconds < math.inf:
        raise ValueError(seconds)
    return round(seconds, 1)


def _metric(data: dict[str, Any]) -> dict[str, Any]:
    # JSON has no word for what is not finite: the engine's pipe says null already.
    value = None if data["value"] is None else float(data["value"])
    return {
        "name": str(data["name"])[:200],
        "step": int(data["step"]),
        "value": value if value is not None and math.isfinite(value) else None,
    }


def _log(data: dict[str, Any]) -> dict[str, Any]:
    return {"level": str(data["level"])[:20], "message": str(data["message"])[:_TEXT]}


_CHECKS = {
    EventType.STAGE: _stage,
    EventType.PROGRESS: _progress,
    EventType.METRIC: _metric,
    EventType.LOG: _log,
}
