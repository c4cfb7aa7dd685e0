"""The training loop that fine-tuning and distillation share.

The weights kept are those of the best epoch on a tenth of ``train`` that is held out for this;
``validation`` is never looked at, so that it stays a fair judge of the result.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from app.domain.errors import DatasetMismatch, Diverged, RecipeOrder, ValidationFailed
from app.domain.recipe import FinetuneSpec, TrainingSpec
from workers.compression.inference import compute_logits, first_output, fixed_batch
from workers.compression.network import Network
from workers.compression.step import Context, StepResult

Rows = NDArray[np.int64]
Criterion = Callable[[Tensor, Tensor, Rows], Tensor]
"""Gives the loss of a batch from its logits, its labels and its rows' positions in the training split."""

HELD_OUT_SHARE = 0.1
HELD_OUT_ROWS = 5000
WARM_UP_SHARE = 0.05
MOMENTUM = 0.9


def run(network: Network, spec: FinetuneSpec, context: Context) -> StepResult:
    """Train on the labels alone, by cross-entropy."""

    def criterion(logits: Tensor, labels: Tensor, _: Rows) -> Tensor:
        return F.cross_entropy(logits, labels)

    return fit(network, spec, context, criterion)


@dataclass(frozen=True)
class _Score:
    """How an epoch did on the held-out rows."""

    accuracy: float
    loss: float

    def better(self, other: "_Score | None") -> bool:
        return other is None or (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


def fit(network: Network, spec: TrainingSpec, context: Context, criterion: Criterion) -> StepResult:
    """Train a copy of the network. Raises RecipeOrder, DatasetMismatch or Diverged."""
    if network.quantized:
        raise RecipeOrder("a quantized network cannot be trained", hint="Put quantize behind the steps that train.")
    student = network.clone()
    module = student.module.to(context.device).requires_grad_(requires_grad=True)
    fitted, held = split_rows(context.data.rows("train"), context.seed)
    batch = _batch_size(student, spec, len(fitted))
    optimizer = make_optimizer(module, spec)
    steps = len(fitted) // batch
    best: _Score | None = None
    best_epoch, best_state = 0, {}
    history: list[dict[str, float]] = []
    with torch.random.fork_rng(devices=[context.device] if context.device.type == "cuda" else []):
        torch.manual_seed(context.seed)
        for epoch in range(1, spec.epochs + 1):
            module.train()
            losses = []
            for index, rows in enumerate(_shuffled(fitted, batch, context.seed, epoch)):
                done = (epoch - 1) * steps + index
                rate = learning_rate(done, spec.epochs * steps, spec.learning_rate)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                losses.append(_update(student, optimizer, context, criterion, rows))
                _check_loss(losses[-1], epoch, spec)
                context.fraction((done + 1) / (spec.epochs * steps), f"epoch {epoch} of {spec.epochs}")
            module.eval()
            score = _score(student, context, held)
            _check_loss(score.loss, epoch, spec)
            history.append({"epoch": epoch, "loss": float(np.mean(losses)), "accuracy": score.accuracy})
            context.metric("loss", epoch, history[-1]["loss"])
            context.metric("learning_rate", epoch, rate)
            context.metric("accuracy", epoch, score.accuracy)
            if score.better(best):
                best, best_epoch = score, epoch
                best_state = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(best_state)
    optimizer.zero_grad(set_to_none=True)
    module.requires_grad_(requires_grad=False).to("cpu")
    details = {"train_rows": len(fitted), "held_out_rows": len(held), "best_epoch": best_epoch, "epochs": history}
    return StepResult(student, details)


def split_rows(count: int, seed: int) -> tuple[Rows, Rows]:
    """Part the rows of train into those to fit and those held out to choose the epoch by."""
    held = min(max(1, round(count * HELD_OUT_SHARE)), HELD_OUT_ROWS)
    if count - held < 2:
        raise DatasetMismatch(f"the data set has {count} train rows, too few to train with")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def make_optimizer(module: nn.Module, spec: TrainingSpec) -> torch.optim.Optimizer:
    """Make the optimizer; parameters of one dimension, biases and those of norms, have no weight decay."""
    parameters = list(module.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [value for value in parameters if value.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [value for value in parameters if value.ndim <= 1], "weight_decay": 0.0},
    ]
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=spec.learning_rate)
    return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=MOMENTUM, nesterov=True)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Give the rate of a step: a linear warm-up, then half a cosine down to zero (Loshchilov 2017, eq. 5)."""
    warm_up = max(1, round(steps * WARM_UP_SHARE))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _batch_size(network: Network, spec: TrainingSpec, rows: int) -> int:
    fixed = fixed_batch(network.signature)
    if fixed is not None and fixed > rows:
        raise DatasetMismatch(f"the network takes batches of {fixed} rows and there are {rows} to train with")
    size = fixed or min(spec.batch_size, rows)
    if size == 1 and any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in network.module.modules()):
        raise ValidationFailed(
            "batch norm cannot be trained on batches of one row", hint="Export the network with a dynamic batch."
        )
    return size


def _shuffled(rows: Rows, size: int, seed: int, epoch: int) -> Iterator[Rows]:
    """Cut an epoch's order into full batches; what is left over waits for another epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]


def _update(
    network: Network, optimizer: torch.optim.Optimizer, context: Context, criterion: Criterion, rows: Rows
) -> float:
    inputs, labels = context.data.gather("train", rows)
    logits = first_output(network.module(*(value.to(context.device) for value in inputs)))
    loss = criterion(logits, labels.to(context.device), rows)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _score(network: Network, context: Context, rows: Rows) -> _Score:
    logits = compute_logits(network, context.data, "train", rows, context.device).cpu()
    labels = torch.from_numpy(context.data.labels("train")[rows])
    accuracy = float((logits.argmax(1) == labels).double().mean())
    return _Score(accuracy, float(F.cross_entropy(logits, labels)))


def _check_loss(loss: float, epoch: int, spec: TrainingSpec) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss was {loss} in epoch {epoch} at a peak learning rate of {spec.learning_rate}",
            hint="Try a tenth of that learning rate.",
        )
