"""Weights of classes, against labels of which some are rare."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.domain.compatibility.task import class_count
from app.domain.steps.training import TrainingSpec
from workers.compression.datasets import Dataset
from workers.compression.step import Context
from workers.compression.tasks.metrics import compact

_READ_ROWS = 64


def class_weights(spec: TrainingSpec, context: Context) -> Tensor | None:
    """Give the weights that a step asks for, (classes,) on its device; ``balanced`` counts the rows of train."""
    if spec.class_weights is None:
        return None
    classes = int(class_count(context.task.name, context.baseline.signature))
    if isinstance(spec.class_weights, str):
        weights = context.task.balance(_labels(context.data), classes)
    else:
        weights = np.asarray(spec.class_weights, np.float32)
    return torch.from_numpy(weights).to(context.device)


def _labels(data: Dataset) -> NDArray[Any]:
    """Read all labels of train, a few rows at a time, in as few bytes as hold them."""
    starts = range(0, data.rows("train"), _READ_ROWS)
    rows = (np.arange(start, min(start + _READ_ROWS, data.rows("train"))) for start in starts)
    return np.concatenate([compact(data.labels("train", some)) for some in rows])
