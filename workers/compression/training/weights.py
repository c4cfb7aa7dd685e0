"""Weights of classes, against labels of which some are rare."""

import numpy as np
import torch
from torch import Tensor

from app.domain.compatibility.task import class_count
from app.domain.steps.training import TrainingSpec
from workers.compression.step import Context


def class_weights(spec: TrainingSpec, context: Context) -> Tensor | None:
    """Give the weights that a step asks for, (classes,) on its device; ``balanced`` counts the rows of train."""
    if spec.class_weights is None:
        return None
    classes = int(class_count(context.task.name, context.baseline.signature))
    if isinstance(spec.class_weights, str):
        weights = context.task.balance(context.data.labels("train"), classes)
    else:
        weights = np.asarray(spec.class_weights, np.float32)
    return torch.from_numpy(weights).to(context.device)
