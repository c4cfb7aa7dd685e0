"""Rounds of one prune step: how much is gone after each, and the training in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from app.domain.job import EventType
from app.domain.steps.distill import DistillSpec
from app.domain.steps.prune import PruneSpec
from app.domain.steps.training import FinetuneSpec
from app.domain.task import EventMessage
from workers.compression.distillation.imitation import imitate
from workers.compression.figures import count
from workers.compression.network import Network
from workers.compression.step import Context, Left, StepResult
from workers.compression.training.criterion import LabelLoss
from workers.compression.training.loop import fit
from workers.compression.training.pace import BATCH_LOSS

Train = Callable[[Network, Context], StepResult]


def share_gone(spec: PruneSpec, number: int) -> float:
    """Give the share of the whole amount that is gone after round ``number``, counted from 1.

    Cubic is eq. 1 of Zhu and Gupta 2017 with nothing gone at first: s_t = s_f + (s_i − s_f)·(1 − t/n)³.
    """
    passed = number / spec.rounds
    return passed if spec.schedule == "constant" else 1 - (1 - passed) ** 3


@dataclass
class Rounds:
    """The rounds of a step under way; ``rows`` tells for the report what each did."""

    spec: PruneSpec
    context: Context
    rows: list[dict[str, Any]] = field(default_factory=list)
    earlier_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._train = _training(self.spec, self.context)

    def end(self, network: Network, removed: int, what: str) -> Network:
        """Count a round that left this network, and train it where another round follows.

        A round that removed nothing left nothing to recover from.
        """
        number = len(self.rows) + 1
        row: dict[str, Any] = {"round": number, "removed": removed, **count(network).as_json()}
        self.rows.append(row)
        message = f"round {number} of {self.spec.rounds}: {removed} {what} removed"
        self.context.fraction(self._fraction(number, 0.0), message)
        if not removed or number == self.spec.rounds or not self.spec.recovery_epochs:
            return network
        result = self._train(network, self._within(number))
        row["recovery"] = result.details
        self.earlier_seconds += result.earlier_seconds
        return result.network

    def _within(self, number: int) -> Context:
        """Give the context of a recovery: part of this step, with its epochs counted through."""
        kept = self.context.checkpoints

        def progress(event: EventMessage) -> None:
            data = dict(event.data)
            if event.type == EventType.PROGRESS:
                data["fraction"] = self._fraction(number, data["fraction"])
                data["message"] = f"behind round {number} of {self.spec.rounds}: {data['message']}"
                if "left" in data:
                    data["left"] = self._left(number, data["left"])
            elif event.type == EventType.METRIC and data["name"] != BATCH_LOSS:
                data["step"] += (number - 1) * self.spec.recovery_epochs
            self.context.progress(EventMessage(type=event.type, data=data))

        return replace(self.context, progress=progress, checkpoints=kept and kept.of_round(number))

    def _left(self, number: int, recovery: Left) -> Left:
        """Add the recoveries behind later rounds to what is left of this one; an epoch is told as of the step's end.

        Each is of a network smaller than the one before it.
        """
        sizes = [self.spec.macs_left(share_gone(self.spec, later)) for later in range(number, self.spec.rounds + 1)]
        epoch = recovery.epoch_seconds / sizes[0]
        coming = sum(sizes[1:-1]) * self.spec.recovery_epochs * epoch
        return Left(recovery.seconds + coming, sizes[-1] * epoch)

    def _fraction(self, number: int, recovered: float) -> float:
        """Tell how far the step is behind a round and this share of its recovery; a round counts like an epoch."""
        epochs = (number - 1 + recovered) * self.spec.recovery_epochs
        return (number + epochs) / (self.spec.rounds + self.spec.trained_epochs)


def _training(spec: PruneSpec, context: Context) -> Train:
    """Give what trains between rounds: the loops of finetune and distill with their defaults."""
    epochs, rate = max(1, spec.recovery_epochs), spec.recovery_learning_rate
    if spec.recovery_method == "distill":
        distill = DistillSpec(method="distill", epochs=epochs, learning_rate=rate)
        imitation = imitate(distill, context)
        return lambda network, within: fit(network, distill, within, imitation)
    finetune = FinetuneSpec(method="finetune", epochs=epochs, learning_rate=rate)
    return lambda network, within: fit(network, finetune, within, LabelLoss(context.task))
