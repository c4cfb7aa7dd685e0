"""Distillation: train the network as it stands on the labels and the baseline's outputs."""

import numpy as np
import torch
from torch import Tensor

from app.domain.recipe import DistillSpec
from workers.compression.distillation.losses import kd_loss
from workers.compression.inference import compute_logits
from workers.compression.network import Network
from workers.compression.step import Context, StepResult
from workers.compression.training import Rows, fit


def run(network: Network, spec: DistillSpec, context: Context) -> StepResult:
    """Train by ``kd_loss``; the teacher's outputs are computed once, as no row is ever augmented."""
    teacher = context.baseline.clone()
    teacher.module.to(context.device).eval()
    rows = np.arange(context.data.rows("train"))
    context.log(f"computing the teacher's outputs on {len(rows)} rows")
    targets = compute_logits(teacher, context.data, "train", rows, context.device)

    def criterion(logits: Tensor, labels: Tensor, batch: Rows) -> Tensor:
        picked = targets[torch.from_numpy(batch).to(context.device)]
        return kd_loss(logits, picked, labels, spec.temperature, spec.alpha)

    return fit(network, spec, context, criterion)
