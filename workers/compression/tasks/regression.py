"""Numbers: outputs and labels have one shape, but for dimensions of size 1."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from app.domain.learning_task import LearningTask
from workers.compression.tasks import metrics
from workers.compression.tasks.metrics import Figure
from workers.compression.tasks.task import Labels, Outputs


class Regression:
    """Mean squared error, judged by the share of the variance that is explained."""

    name = LearningTask.REGRESSION
    metric = "r2"

    def loss(self, output: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        del weights, smoothing
        return F.mse_loss(output, labels.reshape(output.shape))

    def mass(self, labels: Tensor, weights: Tensor | None = None) -> float:
        del weights
        return len(labels)

    def counted(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # One number a row may stand without a dimension of its own.
        rows = len(output)
        return output.reshape(rows, -1), labels.reshape(rows, -1)

    def figures(self, row: tuple[int, ...]) -> Mapping[str, Figure]:
        del row
        return {
            "r2": Figure(metrics.squares, metrics.r2),
            "mse": Figure(metrics.errors(2), metrics.quotient, more_is_better=False),
            "mae": Figure(metrics.errors(1), metrics.quotient, more_is_better=False),
        }

    def balance(self, labels: Labels, classes: int) -> NDArray[np.float32]:
        del labels, classes
        raise TypeError("numbers have no classes that could have weights")

    def decide(self, outputs: Outputs) -> Labels:
        return outputs

    def margins(self, outputs: Outputs, others: Labels) -> None:
        del outputs, others


class Embedding(Regression):
    """A vector a row, judged by its cosine to the one that the uploaded network gives, which stands for the label."""

    name = LearningTask.EMBEDDING
    metric = "cosine"

    def loss(self, output: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """Give the mean of 1 − cos."""
        del weights, smoothing
        return 1 - F.cosine_similarity(output.flatten(1), labels.flatten(1)).mean()

    def counted(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return output.flatten(1), labels

    def figures(self, row: tuple[int, ...]) -> Mapping[str, Figure]:
        """Give the cosine; how similarities of pairs agree is no sum over rows, and told by the evaluation."""
        del row
        return {"cosine": Figure(metrics.cosines, metrics.quotient)}
