"""One epoch of updates: batches, their changes, gradients, and what is done with them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from app.domain.errors import Diverged
from app.domain.steps.training import TrainingSpec
from workers.compression.inference import first_output
from workers.compression.step import Context
from workers.compression.training.augmentation import Generator, Mixed, change, epoch_generator
from workers.compression.training.criterion import Batch, Criterion, Rows, Whole, scaled
from workers.compression.training.mode import autocast, with_layout
from workers.compression.training.optimizer import learning_rate, meet_late
from workers.compression.training.pace import Pace
from workers.compression.training.state import Run

Before = Callable[[nn.Module, float], None]
"""Hears of each batch before it is trained: the module and the share of all batches that are done."""

READ_AFTER = 50
"""Batches between two looks at the losses: on a GPU each look waits for it."""


@dataclass
class Losses:
    """The losses of an epoch's batches; they stay where they are until they are read."""

    epoch: int
    rate: float
    read: list[float] = field(default_factory=list)
    _unread: list[Tensor] = field(default_factory=list)

    def add(self, loss: Tensor) -> None:
        """Take the loss of a batch. Raises Diverged, at the latest some batches on, where one is not finite."""
        self._unread.append(loss)
        if len(self._unread) == READ_AFTER:
            self.mean()

    def mean(self) -> float:
        """Give the mean since the last time; raise Diverged where a loss is not finite."""
        fresh = torch.stack(self._unread).tolist() if self._unread else []
        self._unread = []
        self.read += fresh
        for loss in fresh:
            check_loss(loss, self.epoch, self.rate)
        return sum(fresh) / len(fresh) if fresh else self.read[-1]


def check_loss(loss: float, epoch: int, peak: float) -> None:
    """Raise Diverged where a loss is not finite."""
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss was {loss} in epoch {epoch} at a peak learning rate of {peak:g}",
            hint="Try a tenth of that learning rate.",
        )


@dataclass(frozen=True)
class Updates:
    """What carries a run from one epoch to the next."""

    run: Run
    spec: TrainingSpec
    context: Context
    criterion: Criterion
    before: Before | None

    def train_epoch(self, batches: list[Rows], pace: Pace) -> tuple[float, float]:
        """Train on every batch once; give the mean loss and the last learning rate.

        Raises:
            Diverged: a loss was not finite.
        """
        run, spec = self.run, self.spec
        run.module.train()
        epoch, total = run.epoch + 1, spec.epochs * len(batches)
        updates = math.ceil(len(batches) / spec.accumulate)
        generator = epoch_generator(self.context.seed, epoch)
        losses, rate = Losses(epoch, run.rate_share * spec.learning_rate), 0.0
        for place in range(updates):
            rate = run.rate_share * learning_rate(run.epoch * updates + place, spec.epochs * updates, spec)
            first = place * spec.accumulate
            group = batches[first : first + spec.accumulate]
            run.optimizer.zero_grad(set_to_none=True)
            whole = self._whole(group)
            for done, rows in enumerate(group, first):
                if self.before is not None:
                    self.before(run.module, (run.epoch * len(batches) + done) / total)
                losses.add(scaled(self._add_gradients(rows, whole, generator), len(group)))
                if pace.end_batch(epoch, done + 1):
                    pace.tell_loss(epoch, done + 1, losses.mean())
            self._update(rate)
        losses.mean()
        return math.fsum(losses.read) / len(losses.read), rate

    def _whole(self, group: list[Rows]) -> Whole | None:
        """Give the labels of an update that goes through the network in parts; None where it goes at once."""
        if len(group) == 1 and self.run.pieces == 1:
            return None
        rows, data = np.concatenate(group), self.context.data
        labels = torch.from_numpy(data.labels("train", rows)) if data.labelled("train") else torch.empty(0)
        return Whole(labels.to(self.context.device), len(rows))

    def _add_gradients(self, rows: Rows, whole: Whole | None, generator: Generator) -> Tensor:
        """Add the gradients of a batch of an update; give its part of the loss."""
        inputs, labels = self.context.data.gather("train", rows)
        device = self.context.device
        batch = Batch(tuple(moved(value, device) for value in inputs), moved(labels, device), rows, whole=whole)
        total: Tensor | None = None
        for piece in cut(change(batch, self.spec, generator), self.run.pieces):
            loss = self._loss(piece)
            loss.backward()
            part = loss.detach()
            total = part if total is None else total + part
        assert total is not None  # a batch has a row at least
        return total

    def _loss(self, changed: Batch | Mixed) -> Tensor:
        batch = changed.batch if isinstance(changed, Mixed) else changed
        mode = self.run.mode
        inputs = tuple(map(with_layout, batch.inputs)) if mode.channels_last else batch.inputs
        with autocast(mode, self.context.device):
            output = first_output(self.run.forward(*inputs))
        if mode.bf16:
            output = output.float()
        # A teacher, and adapters of hints, compute in float32 whatever the student does.
        loss = self.criterion.loss(output, batch)
        if isinstance(changed, Mixed):
            loss = torch.lerp(self.criterion.loss(output, changed.partner), loss, changed.share)
        return loss

    def _update(self, rate: float) -> None:
        optimizer = self.run.optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate
        if self.spec.clip_norm is not None:
            values = [value for group in optimizer.param_groups for value in group["params"]]
            nn.utils.clip_grad_norm_(values, self.spec.clip_norm)
        meet_late(optimizer)
        optimizer.step()
        if self.run.average is not None:
            self.run.average.follow(self.run.module)


def moved(value: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to where it is computed with; out of pinned memory, a GPU takes it while the CPU goes on."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def cut(changed: Batch | Mixed, pieces: int) -> Iterator[Batch | Mixed]:
    """Cut a batch into pieces of nearly one size."""
    whole = changed.batch if isinstance(changed, Mixed) else changed
    rows = len(whole.rows)
    if pieces == 1:
        yield changed
        return
    size = math.ceil(rows / pieces)
    for start in range(0, rows, size):
        part = slice(start, start + size)
        piece = _part(whole, part)
        if isinstance(changed, Mixed):
            partner = replace(_part(changed.partner, part), inputs=piece.inputs)
            yield replace(changed, batch=piece, partner=partner)
        else:
            yield piece


def _part(batch: Batch, part: slice) -> Batch:
    inputs = tuple(value[part] for value in batch.inputs)
    return replace(batch, inputs=inputs, labels=batch.labels[part], rows=batch.rows[part])
