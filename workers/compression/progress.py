"""Progress of a whole job, put together from the progress of its parts."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from app.domain.job import EventType, Stage
from app.domain.task import EventMessage
from workers.compression.step import Progress

_PAUSE_SECONDS = 0.25


class Tracker:
    """Passes events on, with fractions of a part turned into fractions of the whole.

    ``weights`` says how much each part of the job counts, in the order in which :meth:`part` is
    entered. The fraction never falls, and between parts it is told at most four times a second.
    """

    def __init__(self, send: Progress, weights: Sequence[float]) -> None:
        self._send = send
        self._weights = [weight / sum(weights) for weight in weights]
        self._entered = 0
        self._begin = 0.0
        self._told_at = 0.0

    @contextmanager
    def part(self, stage: Stage, message: str) -> Iterator[None]:
        """Enter the next part: announce its stage, and its full share when it is left without an error."""
        self._send(EventMessage(type=EventType.STAGE, data={"stage": stage.value}))
        self._tell(self._begin, message)
        yield
        self._begin = min(1.0, self._begin + self._weights[self._entered])
        self._entered += 1
        if self._entered == len(self._weights):
            self._begin = 1.0
        self._tell(self._begin, message)

    def __call__(self, event: EventMessage) -> None:
        """Pass on an event of the part that is running."""
        if event.type != EventType.PROGRESS:
            self._send(event)
        elif time.monotonic() - self._told_at >= _PAUSE_SECONDS:
            share = min(1.0, max(0.0, event.data["fraction"]))
            self._tell(self._begin + share * self._weights[self._entered], event.data["message"])

    def _tell(self, fraction: float, message: str) -> None:
        self._told_at = time.monotonic()
        data = {"fraction": round(fraction, 4), "message": message}
        self._send(EventMessage(type=EventType.PROGRESS, data=data))
