"""What the benchmarks on network F share: its rows, its export, and one recovery for whoever pruned it.

Everything is the product's own: the representation, the training loop, the loss and the teacher's outputs.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from app.domain.steps.distill import DistillSpec
from app.domain.task import EventMessage
from benchmarks.reference import fashion_mnist
from benchmarks.subjects import lifted
from workers.compression.datasets import Dataset, Split
from workers.compression.distillation.imitation import Imitation
from workers.compression.distillation.teacher import TEACHER_FILE, Outputs, Teacher, write_targets
from workers.compression.inference import compute_logits
from workers.compression.network import Network
from workers.compression.step import Context
from workers.compression.training.criterion import LabelLoss
from workers.compression.training.loop import fit
from workers.compression.training.rows import HELD_OUT_SHARE

BATCH = 128
LEARNING_RATE = 0.02


@dataclass(frozen=True)
class Budget:
    """How long a pruned network may learn: one pass of ``steps`` batches, the same rows in the same order for all."""

    steps: int
    learning_rate: float = LEARNING_RATE

    @property
    def rows(self) -> int:
        """Rows of train such that, without those that training holds out, they make ``steps`` batches."""
        return math.ceil((self.steps * BATCH + 1) / (1 - HELD_OUT_SHARE))

    @property
    def spec(self) -> DistillSpec:
        rate = self.learning_rate
        # The same arithmetic for all, whatever could be measured on the way.
        return DistillSpec(method="distill", epochs=1, learning_rate=rate, batch_size=BATCH, precision="float32")


def as_network(module: nn.Module) -> Network:
    """Take in a module that reads Fashion-MNIST."""
    return lifted(module, (np.zeros((2, 1, 28, 28), np.float32),))


def fashion_rows(train_rows: int) -> Dataset:
    """Give the first of the 60,000 as ``train``, and the 10,000 as ``validation`` and nothing else."""
    x, y = fashion_mnist("train")
    held_x, held_y = fashion_mnist("t10k")
    splits = {
        "train": Split((x,), y, np.arange(train_rows)),
        "calibration": Split((x,), y, np.arange(train_rows)),
        "validation": Split((held_x,), held_y, np.arange(len(held_y))),
    }
    return Dataset(splits, (torch.float32,))


def _ignore(_: EventMessage) -> None:
    """Hear of progress and tell nobody."""


def make_context(teacher: Network, data: Dataset, folder: Path, seed: int) -> Context:
    return Context(teacher, data, seed, torch.device("cpu"), _ignore, folder)


def teacher_outputs(context: Context, path: Path) -> Outputs:
    """Give the teacher's outputs on train, which are computed once, as no row is augmented."""
    if not path.exists():
        unfinished = path.with_suffix(".partial")
        write_targets(context.baseline, context, unfinished)
        unfinished.replace(path)
    return np.lib.format.open_memmap(path, "r")


def recover(network: Network, budget: Budget, context: Context, targets: Outputs) -> Network:
    """Distil from F within the budget."""
    teacher = Teacher(context.baseline, 0, context, context.folder / TEACHER_FILE, targets)
    return fit(network, budget.spec, context, Imitation(budget.spec, LabelLoss(context.task), teacher)).network


def accuracy_of(network: Network, context: Context) -> float:
    """Measure the accuracy on the validation rows."""
    rows = np.arange(context.data.rows("validation"))
    logits = compute_logits(network, context.data, "validation", rows, context.device)
    return float((logits.argmax(1).numpy() == context.data.labels("validation")).mean())
