"""One label a row: outputs are logits, (rows, classes)."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from app.domain.learning_task import LearningTask
from workers.compression.tasks.task import Outputs


class Classification:
    """Cross-entropy, judged by the share of rows whose highest logit is the label."""

    name = LearningTask.CLASSIFICATION
    metric = "accuracy"

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output, labels)

    def counted(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return output, labels

    def score(self, outputs: Outputs, labels: NDArray[np.generic]) -> float:
        return float((outputs.argmax(axis=1) == labels).mean())
