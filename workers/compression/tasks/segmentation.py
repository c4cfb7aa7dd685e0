"""One label a pixel: outputs are logits, (rows, classes, height, width); pixels labelled −100 do not count."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from app.domain.learning_task import LearningTask
from workers.compression.tasks import metrics
from workers.compression.tasks.metrics import Figure
from workers.compression.tasks.task import Labels, Outputs
from workers.compression.tasks.tokens import TokenClassification, of_positions


class Segmentation(TokenClassification):
    """Cross-entropy over the pixels that count, judged by how far what is found covers what is there."""

    name = LearningTask.SEGMENTATION
    metric = "mean_iou"

    def counted(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return super().counted(output.movedim(1, -1), labels)

    def figures(self, row: tuple[int, ...]) -> Mapping[str, Figure]:
        del row
        return {
            "mean_iou": Figure(of_positions(metrics.confusions, axis=1), metrics.mean_iou),
            "pixel_accuracy": Figure(of_positions(metrics.hits, axis=1), metrics.quotient),
        }

    def decide(self, outputs: Outputs) -> Labels:
        return outputs.argmax(axis=1)

    def margins(self, outputs: Outputs, others: Labels) -> NDArray[np.floating[Any]]:
        return super().margins(np.moveaxis(outputs, 1, -1), others)
