"""The optimizer of a training and the rate of its steps."""

import math
from typing import Any

import torch
from torch import nn

from app.domain.steps.training import TrainingSpec
from workers.compression.sparsity import keep_zeros

WARM_UP_SHARE = 0.05
MOMENTUM = 0.9


def make_optimizer(module: nn.Module, spec: TrainingSpec) -> torch.optim.Optimizer:
    """Make the optimizer; parameters of one dimension, biases and those of norms, have no weight decay."""
    parameters = list(module.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [value for value in parameters if value.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [value for value in parameters if value.ndim <= 1], "weight_decay": 0.0},
    ]
    if spec.optimizer == "adamw":
        return keep_zeros(torch.optim.AdamW(groups, lr=spec.learning_rate))
    return keep_zeros(torch.optim.SGD(groups, lr=spec.learning_rate, momentum=MOMENTUM, nesterov=True))


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Give the rate of a step: a linear warm-up, then half a cosine down to zero (Loshchilov 2017, eq. 5)."""
    warm_up = max(1, round(steps * WARM_UP_SHARE))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
