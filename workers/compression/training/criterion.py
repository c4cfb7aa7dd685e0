"""What a training minimizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from app.domain.steps.training import TrainingSpec
from workers.compression.tasks import Task

if TYPE_CHECKING:
    from workers.compression.network import Network

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Whole:
    """All that one update learns from, where it goes through the network in parts."""

    labels: Tensor
    rows: int


@dataclass(frozen=True)
class Batch:
    """What one update learns from: inputs and labels on the device, and where its rows stand in the training split.

    ``changed`` tells that the inputs are no longer those of the rows, so that nothing computed from the rows
    beforehand is true of them. ``whole`` is what it is a part of, None where it is an update of its own: a loss is then
    its share of the mean over the whole, so that the parts add up to that.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: Rows
    changed: bool = False
    whole: Whole | None = None

    def share(self, mass: Callable[[Tensor], float] | None = None) -> float:
        """Give what this part has of the whole by the labels' ``mass``, or by rows where there is none; 1 alone."""
        if self.whole is None:
            return 1.0
        if mass is None or not len(self.labels):
            return len(self.rows) / self.whole.rows
        return mass(self.labels) / (mass(self.whole.labels) or 1.0)


class Criterion(Protocol):
    """The loss of a training, with what it learns beside the network's own weights."""

    def attach(self, module: nn.Module) -> nn.Module | None:
        """Begin to watch the network that will be trained; give what must be trained with it, such as adapters."""

    def prepare(self, rows: Rows, spec: TrainingSpec) -> None:
        """Compute what all epochs need of the rows that they will see, while nothing else takes memory."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Give the loss of a batch, or of a part of one, from the network's first output."""

    def reference(self) -> tuple[Network, int] | None:
        """Give the network, at rest, and its output that vectors without labels are judged by; None: the uploaded."""


@dataclass(frozen=True)
class LabelLoss:
    """The task's own loss on the labels alone; ``weights`` are of the classes, (classes,), ``smoothing`` as of Task."""

    task: Task
    weights: Tensor | None = None
    smoothing: float = 0.0

    def attach(self, _: nn.Module) -> None:
        """Watch nothing."""

    def prepare(self, *_: object) -> None:
        """Need nothing."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        share = batch.share(lambda labels: self.task.mass(labels, self.weights))
        return scaled(self.task.loss(output, batch.labels, self.weights, self.smoothing), share)

    def reference(self) -> None:
        """Know of none."""


def scaled(loss: Tensor, share: float) -> Tensor:
    return loss if share == 1 else loss * share
