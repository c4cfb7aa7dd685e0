"""The training loop that every step which trains shares.

The weights kept are those of the best epoch on a tenth of ``train`` that is held out for this;
``validation`` is never looked at, so that it stays a fair judge of the result.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from app.domain.errors import DatasetMismatch, Diverged, OutOfMemory, RecipeOrder, ValidationFailed
from app.domain.steps.training import TrainingSpec
from workers.compression import judging
from workers.compression.counting import count_macs
from workers.compression.inference import BATCH_ROWS, fixed_batch
from workers.compression.network import Network
from workers.compression.step import Context, StepResult
from workers.compression.training.criterion import Criterion, Rows
from workers.compression.training.mode import Load, Mode, choose_mode
from workers.compression.training.pace import Extent, Pace
from workers.compression.training.rows import counting_rows, shuffled, split_rows
from workers.compression.training.state import Run, Score
from workers.compression.training.update import Before, Updates, check_loss

RATE_AFTER_DIVERGING = 0.1


def fit(
    network: Network, spec: TrainingSpec, context: Context, criterion: Criterion, before: Before | None = None
) -> StepResult:
    """Train a copy of the network, from where a checkpoint leaves off.

    Every epoch ends with a checkpoint; a training cut off behind one ends with the same weights as one that was not.
    An epoch that ends in a loss that is not finite is trained once more at a tenth of the rate, which then holds; one
    that needs more memory than a GPU has, in batches cut in half that make one update.

    Raises:
        RecipeOrder, DatasetMismatch: there is nothing to train, or to train with.
        Diverged: a tenth of the rate was no help.
        OutOfMemory: nor were the smallest batches.
    """
    if network.quantized:
        raise RecipeOrder("a quantized network cannot be trained", hint="Put quantize behind the steps that train.")
    fitted, held = split_rows(context.data.rows("train"), context.seed, counting_rows(context))
    wanted = judging.truth(context, "train", held, criterion.reference())
    batch = _batch_size(network, spec, len(fitted))
    with torch.random.fork_rng(devices=[context.device] if context.device.type == "cuda" else []):
        torch.manual_seed(context.seed)
        training = _Training(network, spec, context, criterion, before, fitted, held, wanted, batch)
        run = training.run_to_end()
    details: dict[str, Any] = {
        "train_rows": len(fitted),
        "held_out_rows": len(held),
        "epoch_rows": len(fitted) // batch * batch,
        "best_epoch": run.best_epoch,
        "epochs": run.history,
        "mode": run.mode.as_json(),
    }
    if run.setbacks:
        details["setbacks"] = run.setbacks
    if run.epoch < spec.epochs:
        details["stopped_early"] = True
    # Asked for by name, the choice gives the same bytes wherever the report's recipe is run again.
    chosen: Any = spec.model_copy(update={"precision": run.mode.precision})
    return StepResult(run.result(), details, run.earlier_seconds, chosen)


@dataclass(frozen=True)
class _Training:
    """What stays the same in a training from its beginning to its end."""

    network: Network
    spec: TrainingSpec
    context: Context
    criterion: Criterion
    before: Before | None
    fitted: Rows
    held: Rows
    wanted: judging.Truth
    batch: int

    def run_to_end(self) -> Run:
        run = self._begin()
        updates = Updates(run, self.spec, self.context, self.criterion, self.before)
        extent = Extent(self.spec.epochs, len(self.fitted) // self.batch, len(self.held) / self.batch)
        pace = Pace(self.context, extent)
        while not run.over:
            good, setback = run.snapshot(), None
            try:
                self._epoch(updates, pace)
            except Diverged as error:
                setback = self._slow_down(run, good, error)
            except torch.OutOfMemoryError as error:
                # Its traceback would keep alive what the memory is needed for.
                found = error.with_traceback(None)
                run.restore(good)
                setback = self._cut_batches(run, found)
            if setback is not None:
                run.setbacks.append(setback)
        return run

    def _begin(self) -> Run:
        """Start from the newest checkpoint that fits, or from the beginning."""
        context, spec = self.context, self.spec
        kept = context.checkpoints.newest_first() if context.checkpoints is not None else ()
        for name, state in kept:
            run = Run(self.network, spec, self.criterion, context.device)
            try:
                run.go_on_from(state)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
                context.log(f"{name} is of another training and left out: {error}", "warning")
            else:
                context.log(f"going on from {name}, after epoch {run.epoch} of {spec.epochs}")
                return run
        run = Run(self.network, spec, self.criterion, context.device)
        while True:
            try:
                run.compute_as(self._choose_mode(run))
            except torch.OutOfMemoryError as error:
                run.setbacks.append(self._cut_batches(run, error.with_traceback(None)))
            else:
                return run

    def _choose_mode(self, run: Run) -> Mode:
        rows = math.ceil(self.batch / run.pieces)
        inputs, _ = self.context.data.gather("train", self.fitted[:rows])
        load = Load(
            tuple(value.to(self.context.device) for value in inputs),
            lambda: rows * count_macs(self.network),
            self.spec.epochs * (len(self.fitted) // self.batch) * run.pieces,
        )
        mode = choose_mode(run.module, self.spec, load, self.context.log)
        if mode.bf16 or self.spec.compile == "auto":
            compiled = "compiled" if mode.compiled else "not compiled"
            self.context.log(f"training in {mode.precision}, {compiled}: {mode.reason}")
        return mode

    def _epoch(self, updates: Updates, pace: Pace) -> None:
        """Train, judge and keep one epoch."""
        run, spec, context, began = updates.run, self.spec, self.context, time.monotonic()
        epoch = run.epoch + 1
        pace.begin_epoch(epoch)
        self.criterion.prepare(self.fitted, spec)
        batches = list(shuffled(self.fitted, self.batch, context.seed, epoch))
        loss, rate = updates.train_epoch(batches, pace)
        score = self._score(run)
        check_loss(score.loss, epoch, run.rate_share * spec.learning_rate)
        told = {"loss": loss, "learning_rate": rate, context.task.metric: score.figure}
        more = {"held_out_loss": score.loss, "seconds": round(time.monotonic() - began, 3)}
        run.end_epoch(score, told | more)
        for name, value in told.items():
            context.metric(name, run.epoch, value)
        if context.checkpoints is not None:
            context.checkpoints.save(run.epoch, run.state(finished=run.over), finished=run.over)
        pace.end_epoch(run.epoch)

    def _score(self, run: Run) -> Score:
        """Judge what would be kept on the held-out rows, in float32 whatever it was trained in."""
        context, rows = self.context, max(1, BATCH_ROWS // run.pieces)
        run.module.eval()
        trained = None
        if run.average is not None:
            trained = {name: value.clone() for name, value in run.module.state_dict().items()}
            run.module.load_state_dict(run.average.values)
        found = judging.score(run.student, context, "train", self.held, self.wanted, rows)
        if trained is not None:
            run.module.load_state_dict(trained)
        return Score(*found)

    def _slow_down(self, run: Run, good: dict[str, Any], error: Diverged) -> dict[str, Any]:
        """Go back to before the epoch and on at a tenth of the rate. Raises Diverged where that was done before."""
        if run.rate_share < 1:
            raise error
        run.restore(good)
        run.rate_share = RATE_AFTER_DIVERGING
        peak = run.rate_share * self.spec.learning_rate
        self.context.log(f"{error.detail}; going on from epoch {run.epoch} at a tenth of the rate", "warning")
        return {"epoch": run.epoch + 1, "reason": Diverged.code, "detail": error.detail, "learning_rate": peak}

    def _cut_batches(self, run: Run, error: torch.OutOfMemoryError) -> dict[str, Any]:
        """Go on with batches in twice as many pieces. Raises OutOfMemory where they cannot be cut."""
        pieces = run.pieces * 2
        least = 2 if _normalizes_batches(run.module) else 1
        # The last piece may be the smaller one, and has to be large enough as well.
        fixed = fixed_batch(self.network.signature) is not None
        if fixed or self.batch < pieces * least or 0 < self.batch % math.ceil(self.batch / pieces) < least:
            raise OutOfMemory(
                f"a batch of {self.batch} rows in {run.pieces} pieces needs more memory than the device has",
                hint="Export the network with a dynamic batch, or try a smaller network or a larger device.",
            ) from error
        run.pieces = pieces
        if self.context.device.type == "cuda":
            torch.cuda.empty_cache()
        rows = math.ceil(self.batch / pieces)
        message = f"a batch needs more memory than there is: an update now adds up {pieces} pieces of {rows} rows"
        self.context.log(message, "warning")
        return {"epoch": run.epoch + 1, "reason": OutOfMemory.code, "detail": message, "batch_size": rows}


def _batch_size(network: Network, spec: TrainingSpec, rows: int) -> int:
    fixed = fixed_batch(network.signature)
    if fixed is not None and fixed > rows:
        raise DatasetMismatch(f"the network takes batches of {fixed} rows and there are {rows} to train with")
    size = fixed or min(spec.batch_size, rows)
    if size == 1 and _normalizes_batches(network.module):
        hint = "Ask for a batch_size of 2 or more." if fixed is None else "Export the network with a dynamic batch."
        raise ValidationFailed("batch norm cannot be trained on batches of one row", hint=hint)
    return size


def _normalizes_batches(module: nn.Module) -> bool:
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())
