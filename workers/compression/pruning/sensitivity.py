"""How a metric suffers as more and more of each group goes, one group at a time.

Calibration rows judge where they have labels, else train rows: what the table is used for
is judged on validation rows, which therefore must not have chosen anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import DatasetMismatch
from app.domain.learning_task import METRICS, LearningTask
from app.domain.sensitivity import GroupSensitivity, Measurement, SensitivityTable
from app.domain.steps.prune import PruneSpec
from workers.compression import judging
from workers.compression.datasets import Dataset
from workers.compression.network import Network
from workers.compression.pruning.channel import find_pools
from workers.compression.pruning.masks import lowest, lowest_of_rows
from workers.compression.pruning.plan import pick
from workers.compression.pruning.scoring import score_pools
from workers.compression.pruning.surgery import remove
from workers.compression.pruning.weight import score_weights
from workers.compression.pruning.weights import prunable_layers
from workers.compression.step import Context

AMOUNTS = (0.5, 0.75, 0.25, 0.9, 0.1)
"""In the order in which they are measured, each for all groups before the next: a short budget sees every group."""
ROWS = 2048
WORST = -1e6
"""What stands for a metric that is no number, as of outputs that overflow: nothing costs more."""

Split = Literal["train", "calibration"]
Judge = Callable[[Network], tuple[float, float]]
"""Gives the task's first metric and the loss of a network on the rows that judge."""
Found = tuple[int, float, float]
"""How much was removed, with the metric and the loss that this left."""


@dataclass(frozen=True)
class Candidate:
    """A group and what cuts the least important of it: ``cut`` gives None where nothing of it can go."""

    name: str
    layers: tuple[str, ...]
    size: int
    cut: Callable[[int], tuple[Network, int] | None]


def measure(network: Network, spec: PruneSpec, context: Context) -> SensitivityTable:
    """Measure group by group until all is measured or ``spec.budget_seconds`` are over, one measurement at least.

    Raises:
        NothingToPrune: there is no group; the reasons are in the message.
        DatasetMismatch: there are no labelled rows of train or calibration.
    """
    split, rows = judging_rows(context.data, context.seed)
    judge = _judge(context, split, rows)
    candidates = (_channels if spec.granularity == "channel" else _weights)(network, spec, context)
    whole = judge(network.clone())
    analysis = _Analysis(candidates, judge, spec, context)
    analysis.run()
    return SensitivityTable(
        granularity=spec.granularity,
        criterion=spec.criterion,
        split=split,
        rows=len(rows),
        metric=METRICS[context.task.name][0],
        value=whole[0],
        loss=_finite(whole[1]),
        complete=analysis.complete,
        seconds=round(analysis.seconds, 3),
        groups=tuple(_described(found, analysis.found[found.name], whole[0]) for found in candidates),
        unmeasured=tuple(found.name for found in candidates if not analysis.found[found.name]),
    )


def judging_rows(data: Dataset, seed: int) -> tuple[Split, NDArray[np.int64]]:
    """Choose the rows to measure on, drawn by the seed where there are more than enough.

    Embeddings need no labels: the uploaded network's outputs stand for them.
    """
    needless = data.task is LearningTask.EMBEDDING and data.rows("calibration") > 0
    split: Split = "calibration" if needless or data.labelled("calibration") else "train"
    count = data.rows(split)
    if not count:
        raise DatasetMismatch("the data set has no labelled train or calibration rows to measure on")
    return split, np.sort(np.random.default_rng(seed).permutation(count)[:ROWS])


class _Analysis:
    """The measurements under way; what an earlier attempt at the job has measured is not measured again."""

    def __init__(self, candidates: Sequence[Candidate], judge: Judge, spec: PruneSpec, context: Context) -> None:
        self.found: dict[str, list[Found]] = {candidate.name: [] for candidate in candidates}
        self.complete = True
        self._candidates, self._judge, self._spec, self._context = candidates, judge, spec, context
        self._done, self._longest = 0, 0.0
        self._began = time.monotonic()
        self._restore()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def run(self) -> None:
        planned = list(self._planned())
        for place, (candidate, count) in enumerate(planned):
            if place < self._done:
                continue
            if self._done and self.seconds + self._longest > self._spec.budget_seconds:
                self.complete = False
                self._context.log(f"the budget is used up after {self._done} of {len(planned)} measurements", "warning")
                return
            began = time.monotonic()
            self._measure(candidate, count)
            self._longest = max(self._longest, time.monotonic() - began)
            self._done = place + 1
            self._keep()
            used = max(self._done / len(planned), min(1.0, self.seconds / self._spec.budget_seconds))
            message = f"{self._done} of {len(planned)} measurements: {count} of {candidate.size} of {candidate.name}"
            self._context.fraction(used, message)

    def _planned(self) -> Iterator[tuple[Candidate, int]]:
        counts: dict[str, set[int]] = {candidate.name: {0} for candidate in self._candidates}
        for amount in AMOUNTS:
            for candidate in self._candidates:
                count = round(amount * candidate.size)
                if count not in counts[candidate.name]:
                    counts[candidate.name].add(count)
                    yield candidate, count

    def _measure(self, candidate: Candidate, count: int) -> None:
        known = self.found[candidate.name]
        cut = candidate.cut(count)
        # Floors may have held some back, so that another amount came to the same.
        if cut is not None and cut[1] not in {removed for removed, _, _ in known}:
            known.append((cut[1], *self._judge(cut[0])))

    def _keep(self) -> None:
        if self._context.checkpoints is not None:
            found = {name: [list(row) for row in rows] for name, rows in self.found.items()}
            state = {"done": self._done, "seconds": self.seconds, "longest": self._longest, "found": found}
            self._context.checkpoints.save(self._done, state, finished=False)

    def _restore(self) -> None:
        kept = self._context.checkpoints.newest_first() if self._context.checkpoints is not None else ()
        for name, state in kept:
            if state.get("found", {}).keys() != self.found.keys():
                self._context.log(f"{name} is of another analysis and left out", "warning")
                continue
            self._done, self._longest = int(state["done"]), float(state["longest"])
            self._began -= float(state["seconds"])
            self.found = {group: [(int(n), a, loss) for n, a, loss in rows] for group, rows in state["found"].items()}
            self._context.log(f"going on from {name}, after {self._done} measurements")
            return


def _judge(context: Context, split: Split, rows: NDArray[np.int64]) -> Judge:
    wanted = judging.truth(context, split, rows)

    def judge(network: Network) -> tuple[float, float]:
        network.module.to(context.device)
        figure, loss = judging.score(network, context, split, rows, wanted)
        return figure if math.isfinite(figure) else WORST, loss

    return judge


def _channels(network: Network, spec: PruneSpec, context: Context) -> list[Candidate]:
    """List the coupled groups under the names that the model's layers show."""
    groups, found = find_pools(network, spec)
    scores = score_pools(network, groups, found, spec.criterion, context)
    units = np.array(list(scores))
    layers: dict[str, list[str]] = {}
    for layer, group in groups.names().items():
        layers.setdefault(group, []).append(layer)

    def cut(mine: NDArray[np.int64], count: int) -> tuple[Network, int] | None:
        # A multiple is for the network that comes out; here it would only blur how the metric suffers.
        chosen = pick(groups, {(): mine}, scores, {(): count}, spec, multiple=1)
        return (remove(network, groups, chosen), len(chosen)) if chosen.size else None

    candidates = []
    for group, names in layers.items():
        labels = np.concatenate([p.labels for p in groups.producers if p.layer in names])
        mine = units[np.isin(units, labels)]
        if mine.size:
            candidates.append(Candidate(group, tuple(names), len(mine), partial(cut, mine)))
    return candidates


def _weights(network: Network, spec: PruneSpec, context: Context) -> list[Candidate]:
    """List the layers whose single weights may go, each a group of its own."""
    layers, _ = prunable_layers(network, spec)
    scores = score_weights(network, layers, spec, context)

    def cut(name: str, count: int) -> tuple[Network, int] | None:
        smaller = network.clone()
        weight = prunable_layers(smaller, spec)[0][name].weight
        amount = count / weight.numel()
        wanda = spec.criterion == "wanda"
        gone = lowest_of_rows(scores[name], amount) if wanda else lowest([scores[name]], amount)[0]
        weight.masked_fill_(gone, 0)
        return (smaller, int(gone.sum())) if gone.any() else None

    return [Candidate(name, (name,), part.weight.numel(), partial(cut, name)) for name, part in layers.items()]


def _described(candidate: Candidate, found: Sequence[Found], whole: float) -> GroupSensitivity:
    measurements = []
    for removed, left, loss in sorted(found):
        amount, drop = removed / candidate.size, whole - left
        measurements.append(Measurement(amount=amount, removed=removed, value=left, drop=drop, loss=_finite(loss)))
    return GroupSensitivity(
        group=candidate.name, layers=candidate.layers, size=candidate.size, measurements=tuple(measurements)
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
