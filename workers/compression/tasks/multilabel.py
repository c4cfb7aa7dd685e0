"""Any number of labels a row: outputs are logits, (rows, classes), and a label stands where its logit is above 0."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from app.domain.learning_task import LearningTask
from workers.compression.tasks import metrics
from workers.compression.tasks.metrics import Figure
from workers.compression.tasks.task import Labels, Outputs


class Multilabel:
    """Binary cross-entropy of each label, judged by F1, the mean over labels."""

    name = LearningTask.MULTILABEL
    metric = "macro_f1"

    def loss(self, output: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """Give the mean over rows and labels; ``weights`` multiply the term of ones, a label smoothed tends to ½."""
        wanted = labels * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(output, wanted, pos_weight=weights)

    def mass(self, labels: Tensor, weights: Tensor | None = None) -> float:
        del weights
        return len(labels)

    def counted(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return output, labels

    def figures(self, row: tuple[int, ...]) -> Mapping[str, Figure]:
        del row
        return {
            "macro_f1": Figure(metrics.confusions_of_labels, metrics.macro_f1),
            "micro_f1": Figure(metrics.confusions_of_labels, metrics.micro_f1),
            "subset_accuracy": Figure(metrics.all_right, metrics.quotient),
        }

    def balance(self, labels: Labels, classes: int) -> NDArray[np.float32]:
        """Give rows without a label over rows with it; 1 where none has it."""
        assert labels.shape[1] == classes
        given = (labels > 0).sum(axis=0)
        return np.where(given > 0, (len(labels) - given) / np.maximum(given, 1), 1.0).astype(np.float32)

    def decide(self, outputs: Outputs) -> Labels:
        return outputs > 0

    def margins(self, outputs: Outputs, others: Labels) -> NDArray[np.floating[Any]]:
        return np.where((outputs > 0) == others, 0.0, np.abs(outputs))
