"""One label a position: outputs are logits, (rows, positions, classes); positions labelled −100 do not count."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from app.domain.learning_task import IGNORED, LearningTask
from workers.compression.tasks import metrics
from workers.compression.tasks.classification import balanced, figures_of_classes, lead, weighted_mean
from workers.compression.tasks.metrics import Figure, Terms
from workers.compression.tasks.task import Labels, Outputs

MOST_VALUES = 2**22
"""Outputs whose terms are held at once: 100 MB of those of 21 classes."""


class TokenClassification:
    """Cross-entropy over the positions that count, judged by the share of them whose highest logit is the label."""

    name = LearningTask.TOKEN_CLASSIFICATION
    metric = "accuracy"

    def loss(self, output: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        return weighted_mean(*self.counted(output, labels), weights, smoothing)

    def mass(self, labels: Tensor, weights: Tensor | None = None) -> float:
        there = labels != IGNORED
        return float(there.sum() if weights is None else weights[labels[there]].sum())

    def counted(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        there = labels != IGNORED
        return output[there], labels[there]

    def figures(self, row: tuple[int, ...]) -> Mapping[str, Figure]:
        found = figures_of_classes(row[-1])
        return {name: replace(figure, terms=of_positions(figure.terms)) for name, figure in found.items()}

    def balance(self, labels: Labels, classes: int) -> NDArray[np.float32]:
        return balanced(labels[labels != IGNORED], classes)

    def decide(self, outputs: Outputs) -> Labels:
        return outputs.argmax(axis=-1)

    def margins(self, outputs: Outputs, others: Labels) -> NDArray[np.floating[Any]]:
        return lead(outputs, others)


class LanguageModelling(TokenClassification):
    """The same over a vocabulary, where all that matters is the token that comes."""

    name = LearningTask.LANGUAGE_MODELLING
    metric = "token_accuracy"

    def figures(self, row: tuple[int, ...]) -> Mapping[str, Figure]:
        del row
        return {
            "token_accuracy": Figure(of_positions(metrics.hits), metrics.quotient),
            "perplexity": Figure(of_positions(metrics.surprise), metrics.perplexity, more_is_better=False),
        }

    def balance(self, labels: Labels, classes: int) -> NDArray[np.float32]:
        del labels, classes
        raise TypeError("the tokens of a language have no weights")


def of_positions(
    terms: Callable[[NDArray[Any], NDArray[Any]], Terms], axis: int = -1
) -> Callable[[Outputs, Labels], Terms]:
    """Add up the terms of a row's positions: it is rows that are drawn, as positions of one row are no new evidence.

    ``axis`` is that of the classes. A few rows at a time: terms of positions take more room than outputs do.
    """

    def added(outputs: Outputs, labels: Labels) -> Terms:
        size = max(1, MOST_VALUES // max(1, math.prod(outputs.shape[1:])))
        starts = range(0, max(1, len(labels)), size)
        return metrics.join([few(outputs[start : start + size], labels[start : start + size]) for start in starts])

    def few(outputs: Outputs, labels: Labels) -> Terms:
        there = labels != IGNORED
        counted = np.moveaxis(outputs, axis, -1)[there]
        return metrics.by_row(terms(counted, labels[there]), np.nonzero(there)[0], len(labels))

    return added
