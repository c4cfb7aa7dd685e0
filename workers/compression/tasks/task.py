"""What training and judging must know of what a network learns."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from app.domain.learning_task import LearningTask
from workers.compression.tasks.metrics import Figure

Outputs = NDArray[np.floating[Any]]
Labels = NDArray[Any]


class Task(Protocol):
    """How outputs of a network are taught and judged; one object a job, which knows nothing of any network."""

    name: LearningTask
    metric: str
    """The headline figure, of which more is better."""

    def loss(self, output: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """Give the loss of a batch's first output against its labels, the mean over what counts.

        ``weights`` are of the classes, (classes,); ``smoothing`` is the share of a label that all classes have alike
        (Szegedy et al. 2016, section 7). Tasks without classes know neither.
        """

    def mass(self, labels: Tensor, weights: Tensor | None = None) -> float:
        """Give the sum of the weights that the loss is a mean by: that of parts adds up to that of the whole."""

    def counted(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give what counts of a batch as rows: outputs (n, classes) and labels (n, …), for a teacher to be imitated."""

    def figures(self, row: tuple[int, ...]) -> Mapping[str, Figure]:
        """Give all figures of outputs whose rows have this shape, the headline first."""

    def balance(self, labels: Labels, classes: int) -> NDArray[np.float32]:
        """Give weights that make up for how often each class stands in ``labels``. Raises TypeError without classes."""

    def decide(self, outputs: Outputs) -> Labels:
        """Give the labels that outputs stand for; the outputs themselves where they decide nothing."""

    def margins(self, outputs: Outputs, others: Labels) -> NDArray[np.floating[Any]] | None:
        """Give by how much each decision was made against the one in ``others``; None where nothing is decided."""
