"""One label a row: outputs are logits, (rows, classes)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from app.domain.learning_task import TOP, LearningTask
from workers.compression.tasks import metrics
from workers.compression.tasks.metrics import Figure
from workers.compression.tasks.task import Labels, Outputs


class Classification:
    """Cross-entropy, judged by the share of rows whose highest logit is the label."""

    name = LearningTask.CLASSIFICATION
    metric = "accuracy"

    def loss(self, output: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        return weighted_mean(output, labels, weights, smoothing)

    def mass(self, labels: Tensor, weights: Tensor | None = None) -> float:
        return len(labels) if weights is None else float(weights[labels].sum())

    def counted(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return output, labels

    def figures(self, row: tuple[int, ...]) -> Mapping[str, Figure]:
        return figures_of_classes(row[-1])

    def balance(self, labels: Labels, classes: int) -> NDArray[np.float32]:
        return balanced(labels, classes)

    def decide(self, outputs: Outputs) -> Labels:
        return outputs.argmax(axis=-1)

    def margins(self, outputs: Outputs, others: Labels) -> NDArray[np.floating[Any]]:
        return lead(outputs, others)


def weighted_mean(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Give the mean of the cross-entropies; 0, from which nothing is learned, where no row has any weight."""
    if not len(labels) or (weights is not None and not weights[labels].any()):
        return logits.sum() * 0
    return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)


def figures_of_classes(classes: int) -> Mapping[str, Figure]:
    """Give the figures of logits over classes; that the label is among the first five says nothing of five or fewer."""
    top = {f"top{TOP}_accuracy": Figure(metrics.hits_among(TOP), metrics.quotient)} if classes > TOP else {}
    return {
        "accuracy": Figure(metrics.hits, metrics.quotient),
        **top,
        "macro_f1": Figure(metrics.confusions, metrics.macro_f1),
        "log_loss": Figure(metrics.surprise, metrics.quotient, more_is_better=False),
        "calibration_error": Figure(metrics.miscalibration, metrics.calibration_error, more_is_better=False),
    }


def balanced(labels: Labels, classes: int) -> NDArray[np.float32]:
    """Give n / (C·n_c), as of King and Zeng 2001, section 4; 1 for a class that stands nowhere."""
    counts = metrics.count_classes(labels, classes)
    return np.where(counts > 0, len(labels) / (classes * np.maximum(counts, 1)), 1.0).astype(np.float32)


def lead(logits: Outputs, others: Labels) -> NDArray[np.floating[Any]]:
    """Give how far the highest logit is above that of another choice."""
    return logits.max(axis=-1) - np.take_along_axis(logits, others[..., None], axis=-1)[..., 0]
