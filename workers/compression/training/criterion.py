"""What a training minimizes."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.compression.tasks import Task

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What one update learns from: inputs and labels on the device, and where its rows stand in the training split.

    ``changed`` tells that the inputs are no longer those of the rows, so that nothing computed from the rows
    beforehand is true of them.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: Rows
    changed: bool = False


class Criterion(Protocol):
    """The loss of a training, with what it learns beside the network's own weights."""

    def attach(self, module: nn.Module) -> nn.Module | None:
        """Begin to watch the network that will be trained; give what must be trained with it, such as adapters."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Give the loss of a batch from the network's first output."""

    def judge(self, output: Tensor, rows: Rows) -> float | None:
        """Give the loss of outputs on rows of the training split that have no labels; None where it needs some."""


@dataclass(frozen=True)
class LabelLoss:
    """The task's own loss on the labels alone."""

    task: Task

    def attach(self, _: nn.Module) -> None:
        """Watch nothing."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return self.task.loss(output, batch.labels)

    def judge(self, _: Tensor, __: Rows) -> None:
        """Judge nothing without labels."""
