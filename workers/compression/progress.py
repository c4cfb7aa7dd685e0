"""Progress of a whole job, put together from the progress of its parts."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from app.domain.job import EventType, Stage
from app.domain.task import EventMessage
from workers.compression.step import Left, Progress

_PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class Expected:
    """What a part of a job is expected to take: epochs of training, and seconds for all else.

    ``size`` is how many multiplications its network has at its end, as a share of the uploaded network's: an epoch is
    taken to last in proportion.
    """

    seconds: float
    epochs: int = 0
    size: float = 1.0


class Tracker:
    """Passes events on, with fractions of a part turned into fractions of the whole.

    ``weights`` says how much each part of the job counts, in the order in which :meth:`part` is
    entered. The fraction never falls, and between parts it is told at most four times a second.
    Once it is told what to expect, it tells with it how many seconds are left, or null while it cannot know.
    """

    def __init__(self, send: Progress, weights: Sequence[float], clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._weights = [weight / sum(weights) for weight in weights]
        self._entered = 0
        self._begin = 0.0
        self._told_at = 0.0
        self._clock = clock
        self._expected: list[Expected] = []
        self._entered_at = self._left_at = clock()
        self._left: Left | None = None
        self._epoch_seconds: float | None = None  # of the uploaded network

    def expect(self, parts: Sequence[Expected]) -> None:
        """Say what every part will take, in their order."""
        self._expected = list(parts)

    @contextmanager
    def part(self, stage: Stage, message: str) -> Iterator[None]:
        """Enter the next part: announce its stage, and its full share when it is left without an error."""
        self._send(EventMessage(type=EventType.STAGE, data={"stage": stage.value}))
        self._entered_at, self._left = self._clock(), None
        self._tell(self._begin, message)
        yield
        self._begin = min(1.0, self._begin + self._weights[self._entered])
        self._entered += 1
        self._entered_at, self._left = self._clock(), None
        if self._entered == len(self._weights):
            self._begin = 1.0
        self._tell(self._begin, message)

    def __call__(self, event: EventMessage) -> None:
        """Pass on an event of the part that is running."""
        if event.type != EventType.PROGRESS:
            self._send(event)
            return
        if (left := event.data.get("left")) is not None:
            self._left, self._left_at = left, self._clock()
            self._epoch_seconds = left.epoch_seconds / (self._expected[self._entered].size if self._expected else 1.0)
        if self._clock() - self._told_at >= _PAUSE_SECONDS:
            share = min(1.0, max(0.0, event.data["fraction"]))
            self._tell(self._begin + share * self._weights[self._entered], event.data["message"])

    def _tell(self, fraction: float, message: str) -> None:
        self._told_at = self._clock()
        data = {"fraction": round(fraction, 4), "message": message}
        if self._expected:
            data["eta_seconds"] = self._seconds_left()
        self._send(EventMessage(type=EventType.PROGRESS, data=data))

    def _seconds_left(self) -> float | None:
        """Give what the training under way says of itself, or what else the part is expected to take, and the rest."""
        coming = self._expected[self._entered :]
        if self._left is not None:
            here = self._left.seconds + coming[0].seconds - (self._clock() - self._left_at)
        elif coming:
            whole = self._whole(coming[0])
            if whole is None:
                return None
            here = whole - (self._clock() - self._entered_at)
        else:
            return 0.0
        rest = [self._whole(part) for part in coming[1:]]
        known = [seconds for seconds in rest if seconds is not None]
        return round(max(0.0, here) + sum(known), 1) if len(known) == len(rest) else None

    def _whole(self, part: Expected) -> float | None:
        """Give the seconds of a part; null where it trains and nothing has trained yet."""
        if not part.epochs:
            return part.seconds
        return None if self._epoch_seconds is None else part.seconds + part.epochs * part.size * self._epoch_seconds
