"""What training and judging must know of what a network learns."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from app.domain.learning_task import LearningTask

Outputs = NDArray[np.float32]


class Task(Protocol):
    """How outputs of a network are taught and judged; one object a job, which knows nothing of any network."""

    name: LearningTask
    metric: str
    """The headline figure, of which more is better."""

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Give the loss of a batch's first output against its labels, the mean over what counts."""

    def counted(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give what counts of a batch as rows: outputs (n, classes) and labels (n, …), for a teacher to be imitated."""

    def score(self, outputs: Outputs, labels: NDArray[np.generic]) -> float:
        """Give the headline figure of outputs for rows."""
