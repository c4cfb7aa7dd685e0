"""How fast a training goes, and with it how long it still takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from workers.compression.step import Context, Left

TELL_SECONDS = 0.25
LOSS_SECONDS = 5.0
"""The pause between two losses told within epochs, at first; it grows to a two hundredth of the training so far."""
_LOSSES = 200
BATCH_LOSS = "batch_loss"
"""The metric of losses within epochs; its step counts the batches of one training."""
FORWARD_SHARE = 1 / 3
"""Of a batch that trains, roughly: what a batch that is only judged takes."""


@dataclass(frozen=True)
class Extent:
    """How much there is to do: epochs, batches of each, and held-out rows in such batches behind each."""

    epochs: int
    batches: int
    judged: float


class Pace:
    """Tells how far a training is and what it loses, a few times a second at most, and how long the rest will take.

    The first batch of a process counts in no estimate: a teacher's outputs and compiling may be hidden in it.
    """

    def __init__(self, context: Context, extent: Extent, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._extent = extent
        self._clock = clock
        self._began = self._told_at = self._loss_told_at = self._last = clock()
        self._first: float | None = None
        self._batches, self._batch_seconds = 0, 0.0
        self._ends, self._end_seconds = 0, 0.0

    def begin_epoch(self, epoch: int) -> None:
        """Tell that an epoch, counted from 1, begins."""
        self._last = self._clock()
        self._tell(epoch, 0)

    def end_batch(self, epoch: int, done: int) -> bool:
        """Count a batch, the epoch's ``done``-th; tell whether its loss should be told."""
        now = self._clock()
        if self._first is None:
            self._first = now - self._last
        else:
            self._batches += 1
            self._batch_seconds += now - self._last
        self._last = now
        if now - self._told_at >= TELL_SECONDS:
            self._tell(epoch, done)
        return now - self._loss_told_at >= max(LOSS_SECONDS, (now - self._began) / _LOSSES)

    def tell_loss(self, epoch: int, done: int, loss: float) -> None:
        """Tell the loss since it was last told, within an epoch."""
        self._loss_told_at = self._clock()
        self._context.metric(BATCH_LOSS, (epoch - 1) * self._extent.batches + done, loss)

    def end_epoch(self, epoch: int) -> None:
        """Count what followed the last batch of an epoch: judging and keeping it."""
        now = self._clock()
        self._ends += 1
        self._end_seconds += now - self._last
        self._last = now
        self._tell(epoch, self._extent.batches, ended=True)

    def left(self, epoch: int, done: int, *, ended: bool = False) -> Left | None:
        """Estimate what is left behind the ``done``-th batch of an epoch; null before the first batch."""
        if self._first is None:
            return None
        batch = self._batch_seconds / self._batches if self._batches else self._first
        end = self._end_seconds / self._ends if self._ends else self._extent.judged * batch * FORWARD_SHARE
        batches = (self._extent.epochs - epoch + 1) * self._extent.batches - done
        ends = self._extent.epochs - epoch + (0 if ended else 1)
        return Left(seconds=batches * batch + ends * end, epoch_seconds=self._extent.batches * batch + end)

    def _tell(self, epoch: int, done: int, *, ended: bool = False) -> None:
        self._told_at = self._clock()
        share = (epoch - 1 + done / self._extent.batches) / self._extent.epochs
        self._context.fraction(share, f"epoch {epoch} of {self._extent.epochs}", self.left(epoch, done, ended=ended))
