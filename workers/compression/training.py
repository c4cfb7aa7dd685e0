"""The training loop that fine-tuning and distillation share.

The weights kept are those of the best epoch on a tenth of ``train`` that is held out for this;
``validation`` is never looked at, so that it stays a fair judge of the result.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from app.domain.errors import DatasetMismatch, Diverged, RecipeOrder, ValidationFailed
from app.domain.steps.training import FinetuneSpec, TrainingSpec
from workers.compression.inference import compute_logits, first_output, fixed_batch
from workers.compression.network import Network
from workers.compression.sparsity import keep_zeros
from workers.compression.step import Context, StepResult

Rows = NDArray[np.int64]
Criterion = Callable[[Tensor, Tensor, Rows], Tensor]
"""Gives the loss of a batch from its logits, its labels and its rows' positions in the training split."""

Before = Callable[[nn.Module, float], None]
"""Hears of each batch before it is trained: the module and the share of all batches that are done."""

HELD_OUT_SHARE = 0.1
HELD_OUT_ROWS = 5000
WARM_UP_SHARE = 0.05
MOMENTUM = 0.9


def run(network: Network, spec: FinetuneSpec, context: Context) -> StepResult:
    """Train on the labels alone, by cross-entropy."""
    return fit(network, spec, context, fit_labels)


def fit_labels(logits: Tensor, labels: Tensor, _: Rows) -> Tensor:
    return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class _Score:
    """How an epoch did on the held-out rows."""

    accuracy: float
    loss: float

    def better(self, other: "_Score | None") -> bool:
        return other is None or (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


class _Run:
    """A training under way: all that changes from epoch to epoch, so that another process can go on with it."""

    def __init__(self, network: Network, spec: TrainingSpec, device: torch.device) -> None:
        self.student = network.clone()
        self.module = self.student.module.to(device).requires_grad_(requires_grad=True)
        self.optimizer = make_optimizer(self.module, spec)
        self.device = device
        self.epoch = 0
        self.best: _Score | None = None
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self.earlier_seconds = 0.0
        self._began = time.monotonic()

    def end_epoch(self, score: _Score, loss: float) -> None:
        """Count the epoch that has just been trained, and keep its weights where no other did better."""
        self.epoch += 1
        self.history.append({"epoch": self.epoch, "loss": loss, "accuracy": score.accuracy})
        if score.better(self.best):
            self.best, self.best_epoch = score, self.epoch
            self.best_weights = {name: value.clone() for name, value in self.module.state_dict().items()}

    def state(self, *, finished: bool) -> dict[str, Any]:
        """Give what :meth:`restore` takes. The schedule and the order of rows follow from the epoch alone.

        Of a finished training the best weights are all that matters, so that it takes a third of the room.
        """
        assert self.best is not None
        return {
            "epoch": self.epoch,
            "weights": self.best_weights if finished else self.module.state_dict(),
            "optimizer": None if finished else self.optimizer.state_dict(),
            "generators": _generators(self.device),
            "best": (self.best.accuracy, self.best.loss),
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "history": self.history,
            "seconds": self.earlier_seconds + time.monotonic() - self._began,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises whatever a state of another network or of no training causes."""
        self.module.load_state_dict(state["best_weights"])  # tells whether they fit
        self.module.load_state_dict(state["weights"])
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.best_epoch = int(state["epoch"]), int(state["best_epoch"])
        self.best, self.best_weights = _Score(*state["best"]), state["best_weights"]
        self.history, self.earlier_seconds = list(state["history"]), float(state["seconds"])
        torch.set_rng_state(state["generators"][0])
        for generator in state["generators"][1:]:
            torch.cuda.set_rng_state(generator, self.device)

    def result(self) -> Network:
        """Give the network of the best epoch, at rest."""
        self.module.load_state_dict(self.best_weights)
        self.optimizer.zero_grad(set_to_none=True)
        self.module.requires_grad_(requires_grad=False).to("cpu").eval()
        return self.student


def fit(
    network: Network, spec: TrainingSpec, context: Context, criterion: Criterion, before: Before | None = None
) -> StepResult:
    """Train a copy of the network, from where a checkpoint leaves off. Raises RecipeOrder, DatasetMismatch, Diverged.

    Every epoch ends with a checkpoint; a training cut off behind one ends with the same weights as one that was not.
    """
    if network.quantized:
        raise RecipeOrder("a quantized network cannot be trained", hint="Put quantize behind the steps that train.")
    fitted, held = split_rows(context.data.rows("train"), context.seed)
    batch = _batch_size(network, spec, len(fitted))
    with torch.random.fork_rng(devices=[context.device] if context.device.type == "cuda" else []):
        torch.manual_seed(context.seed)
        run = _begin(network, spec, context)
        while run.epoch < spec.epochs:
            batches = list(_shuffled(fitted, batch, context.seed, run.epoch + 1))
            loss, rate = _train_epoch(run, spec, context, criterion, batches, before)
            run.module.eval()
            score = _score(run.student, context, held)
            _check_loss(score.loss, run.epoch + 1, spec)
            run.end_epoch(score, loss)
            for name, value in (("loss", loss), ("learning_rate", rate), ("accuracy", score.accuracy)):
                context.metric(name, run.epoch, value)
            if context.checkpoints is not None:
                finished = run.epoch == spec.epochs
                context.checkpoints.save(run.epoch, run.state(finished=finished), finished=finished)
    details = {
        "train_rows": len(fitted),
        "held_out_rows": len(held),
        "best_epoch": run.best_epoch,
        "epochs": run.history,
    }
    return StepResult(run.result(), details, run.earlier_seconds)


def _begin(network: Network, spec: TrainingSpec, context: Context) -> _Run:
    """Start from the newest checkpoint that fits, or from the beginning."""
    kept = context.checkpoints.newest_first() if context.checkpoints is not None else ()
    for name, state in kept:
        run = _Run(network, spec, context.device)
        try:
            run.restore(state)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            context.log(f"{name} is of another training and left out: {error}", "warning")
        else:
            context.log(f"going on from {name}, after epoch {run.epoch} of {spec.epochs}")
            return run
    return _Run(network, spec, context.device)


def _train_epoch(
    run: _Run,
    spec: TrainingSpec,
    context: Context,
    criterion: Criterion,
    batches: list[Rows],
    before: Before | None,
) -> tuple[float, float]:
    """Train on every batch once; give the mean loss and the last learning rate."""
    run.module.train()
    epoch, total = run.epoch + 1, spec.epochs * len(batches)
    losses, rate = [], 0.0
    for done, rows in enumerate(batches, run.epoch * len(batches)):
        rate = learning_rate(done, total, spec.learning_rate)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        if before is not None:
            before(run.module, done / total)
        losses.append(_update(run.student, run.optimizer, context, criterion, rows))
        _check_loss(losses[-1], epoch, spec)
        context.fraction((done + 1) / total, f"epoch {epoch} of {spec.epochs}")
    return float(np.mean(losses)), rate


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


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
        return keep_zeros(torch.optim.AdamW(groups, lr=spec.learning_rate))
    return keep_zeros(torch.optim.SGD(groups, lr=spec.learning_rate, momentum=MOMENTUM, nesterov=True))


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
