"""Distillation: train the network as it stands on the labels and the baseline's outputs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.domain.steps.distill import DistillSpec
from workers.compression.distillation.losses import kd_loss
from workers.compression.inference import output_batches
from workers.compression.network import Network
from workers.compression.step import Context, StepResult
from workers.compression.tasks import Task
from workers.compression.training.criterion import Batch
from workers.compression.training.loop import fit
from workers.compression.training.weights import class_weights

Logits = NDArray[np.float32]


def run(network: Network, spec: DistillSpec, context: Context) -> StepResult:
    """Train by ``kd_loss``."""
    return fit(network, spec, context, imitate(spec, context))


@dataclass(frozen=True)
class Imitation:
    """The loss against the outputs that ``targets`` gives, (rows of train, classes)."""

    targets: Callable[[], Logits]
    spec: DistillSpec
    task: Task
    weights: Tensor | None = None

    def attach(self, _: nn.Module) -> None:
        """Watch nothing: the outputs are all that is imitated."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        teacher = torch.from_numpy(self.targets()[batch.rows]).to(output.device)
        student, labels = self.task.counted(output, batch.labels)
        teacher, _ = self.task.counted(teacher, batch.labels)
        if not len(labels):
            return output.sum() * 0
        return kd_loss(student, teacher, labels, self.spec.temperature, self.spec.alpha, self.weights)


def imitate(spec: DistillSpec, context: Context) -> Imitation:
    """Give the loss against the baseline; its outputs are computed once, as no row is ever augmented."""

    @functools.cache
    def targets() -> Logits:
        # Not before the first batch: a training that has ended in an earlier attempt needs none.
        return write_targets(context, context.folder / "teacher.npy")

    return Imitation(targets, spec, context.task, class_weights(spec, context))


def write_targets(context: Context, path: Path) -> Logits:
    """Give the teacher's outputs on every row of train, (rows, …), as a map of a file."""
    teacher = context.baseline.clone()
    teacher.module.to(context.device).eval()
    rows = np.arange(context.data.rows("train"))
    context.log(f"computing the teacher's outputs on {len(rows)} rows")
    mapped: Logits | None = None
    for picked, outputs in output_batches(teacher, context.data, "train", rows, context.device):
        if mapped is None:
            mapped = np.lib.format.open_memmap(path, "w+", np.float32, (len(rows), *outputs.shape[1:]))
        mapped[picked] = outputs.cpu().numpy()
    assert isinstance(mapped, np.memmap)
    mapped.flush()
    return np.lib.format.open_memmap(path, "r")
