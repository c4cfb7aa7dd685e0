"""The training loop that every step which trains shares.

The weights kept are those of the best epoch on a tenth of ``train`` that is held out for this;
``validation`` is never looked at, so that it stays a fair judge of the result.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from app.domain.errors import DatasetMismatch, Diverged, RecipeOrder, ValidationFailed
from app.domain.steps.training import TrainingSpec
from workers.compression.inference import compute_logits, first_output, fixed_batch
from workers.compression.network import Network
from workers.compression.step import Context, StepResult
from workers.compression.training.criterion import Batch, Criterion, Rows
from workers.compression.training.optimizer import learning_rate
from workers.compression.training.rows import shuffled, split_rows
from workers.compression.training.state import Run, Score

Before = Callable[[nn.Module, float], None]
"""Hears of each batch before it is trained: the module and the share of all batches that are done."""


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
        run = _begin(network, spec, context, criterion)
        while run.epoch < spec.epochs:
            batches = list(shuffled(fitted, batch, context.seed, run.epoch + 1))
            loss, rate = _train_epoch(run, spec, context, criterion, batches, before)
            run.module.eval()
            score = _score(run.student, context, criterion, held)
            _check_loss(score.loss, run.epoch + 1, spec)
            judged = {context.task.metric: score.figure} if _is_labelled(context) else {"held_out_loss": score.loss}
            metrics = {"loss": loss, "learning_rate": rate, **judged}
            run.end_epoch(score, metrics)
            for name, value in metrics.items():
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


def _begin(network: Network, spec: TrainingSpec, context: Context, criterion: Criterion) -> Run:
    """Start from the newest checkpoint that fits, or from the beginning."""
    kept = context.checkpoints.newest_first() if context.checkpoints is not None else ()
    for name, state in kept:
        run = Run(network, spec, criterion, context.device)
        try:
            run.restore(state)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            context.log(f"{name} is of another training and left out: {error}", "warning")
        else:
            context.log(f"going on from {name}, after epoch {run.epoch} of {spec.epochs}")
            return run
    return Run(network, spec, criterion, context.device)


def _train_epoch(
    run: Run,
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
        losses.append(_update(run, context, criterion, rows))
        _check_loss(losses[-1], epoch, spec)
        context.fraction((done + 1) / total, f"epoch {epoch} of {spec.epochs}")
    return float(np.mean(losses)), rate


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


def _update(run: Run, context: Context, criterion: Criterion, rows: Rows) -> float:
    inputs, labels = context.data.gather("train", rows)
    batch = Batch(tuple(value.to(context.device) for value in inputs), labels.to(context.device), rows)
    loss = criterion.loss(first_output(run.module(*batch.inputs)), batch)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    run.optimizer.step()
    return float(loss.detach())


def _is_labelled(context: Context) -> bool:
    return context.data.splits["train"].labels is not None


def _score(network: Network, context: Context, criterion: Criterion, rows: Rows) -> Score:
    """Judge held-out rows by their labels; where they have none, by the criterion, of which less is better."""
    outputs = compute_logits(network, context.data, "train", rows, context.device).cpu()
    loss = None if _is_labelled(context) else criterion.judge(outputs, rows)
    if loss is not None:
        return Score(-loss, loss)
    labels = context.data.labels("train")[rows]
    figure = context.task.score(outputs.numpy(), labels)
    return Score(figure, float(context.task.loss(outputs, torch.from_numpy(labels))))


def _check_loss(loss: float, epoch: int, spec: TrainingSpec) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss was {loss} in epoch {epoch} at a peak learning rate of {spec.learning_rate}",
            hint="Try a tenth of that learning rate.",
        )
