"""Chooses units: the least important, so many that the amount or the ratio is met, in multiples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice, permutations

import numpy as np

from app.domain.steps.prune import PruneSpec
from workers.compression.counting import count_macs, count_parameters
from workers.compression.network import Network
from workers.compression.pruning.groups import Groups
from workers.compression.pruning.plan import Counts, Quota, Shift, parts_of, pick, tally
from workers.compression.pruning.selection import Labels, Part
from workers.compression.pruning.surgery import remove

TOLERANCE = 0.03
"""How far the ratio that is met may lie from the one that was asked for."""
MULTIPLES = (8, 4, 2, 1)
"""What ``auto`` tries, in this order: ADR 13 has what each gains in ONNX Runtime on a CPU."""
_CLOSE_ENOUGH, _TRIALS, _MOVES, _SWAPS = 0.001, 14, 24, 60


@dataclass(frozen=True)
class Goal:
    """A ratio of what a measure counts of the ``whole`` network to what it counts in the end."""

    name: str
    measure: Callable[[Network], int]
    whole: int
    ratio: float

    def met(self, network: Network) -> float:
        return self.whole / self.measure(network)

    def miss(self, network: Network) -> float:
        """Tell how far the network is from it, as a share of what is to be left; more than 0 where it is too large."""
        return self.measure(network) / (self.whole / self.ratio) - 1


@dataclass(frozen=True)
class Choice:
    """The units that go and the multiple of channels that stays."""

    units: Labels
    multiple: int


def goal_for(network: Network, spec: PruneSpec) -> Goal | None:
    """Give what is to be met, None where an amount was asked for."""
    if spec.macs_ratio:
        return Goal("macs_ratio", count_macs, count_macs(network), spec.macs_ratio)
    if spec.parameters_ratio:
        return Goal("parameters_ratio", count_parameters, count_parameters(network), spec.parameters_ratio)
    return None


@dataclass(frozen=True)
class Selector:
    """What is chosen from, as it scores now."""

    network: Network
    groups: Groups
    pools: dict[Part, Labels]
    scores: dict[int, float]
    spec: PruneSpec

    def by_amount(self, quotas: Quota, amount: float) -> Choice:
        """Choose an amount of all pools, by the largest multiple that takes as many units within 3 %."""
        counts = quotas.at(amount)
        if self.spec.round_to != "auto":
            return Choice(self._pick(counts, self.spec.round_to), self.spec.round_to)
        exact = len(self._pick(counts, 1))
        choices = (Choice(self._pick(counts, multiple), multiple) for multiple in MULTIPLES)
        return next(found for found in choices if abs(len(found.units) - exact) <= TOLERANCE * exact)

    def by_goal(self, quotas: Quota, goal: Goal) -> Choice:
        """Choose the share of all pools that comes nearest, by the largest multiple that comes within 3 %."""
        asked = MULTIPLES if self.spec.round_to == "auto" else (self.spec.round_to,)
        found: list[tuple[float, Choice]] = []
        for multiple in asked:
            miss, units = self._search(quotas, goal, multiple)
            if is_met(miss):
                return Choice(units, multiple)
            found.append((abs(miss), Choice(units, multiple)))
        return min(found, key=lambda pair: pair[0])[1]

    def by_parts(self, counts: Counts) -> Labels:
        """Choose so many of each of the ``parts``."""
        return pick(self.groups, self.parts, self.scores, counts, self.spec, multiple=1)

    def count(self, units: Labels) -> Counts:
        """Count units by their parts, which is all that a ratio depends on."""
        return tally(self.parts, units)

    @cached_property
    def parts(self) -> dict[Part, Labels]:
        """The units of all pools by the layers that they run through."""
        return parts_of(self.groups, self.pools)

    def _pick(self, counts: Counts, multiple: int, shift: Shift | None = None) -> Labels:
        return pick(self.groups, self.pools, self.scores, counts, self.spec, multiple=multiple, shift=shift)

    def _search(self, quotas: Quota, goal: Goal, multiple: int) -> tuple[float, Labels]:
        """Halve the interval of shares; where all jump past the goal at once, move single layers by a multiple."""
        best, nearest, at = np.zeros(0, np.int64), goal.miss(self.network), 0.0
        low, high = 0.0, 1.0
        for _ in range(_TRIALS):
            share = (low + high) / 2
            units = self._pick(quotas.at(share), multiple)
            miss = goal.miss(remove(self.network, self.groups, units))
            if abs(miss) < abs(nearest):
                best, nearest, at = units, miss, share
            if abs(miss) <= _CLOSE_ENOUGH:
                break
            low, high = (share, high) if miss > 0 else (low, share)
        if is_met(nearest):
            return nearest, best
        for shift in self._shifts(more=nearest > 0):
            units = self._pick(quotas.at(at), multiple, shift)
            miss = goal.miss(remove(self.network, self.groups, units))
            if abs(miss) < abs(nearest):
                best, nearest = units, miss
            if is_met(nearest):
                break
        return nearest, best

    def _shifts(self, *, more: bool) -> Iterator[Shift]:
        """Let one layer, then two, and so on, lose one multiple more or fewer.

        At last one loses more and another fewer, which is finer than any single move.
        """
        parts = sorted(self.parts, key=lambda part: (len(part), part))
        step, sum_ = 1 if more else -1, Counter[Part]()
        for place, part in enumerate(islice(cycle(parts), _MOVES)):
            sum_[part] += step
            if place < len(parts):
                yield {part: step}
            if place:
                yield dict(sum_)
        for one, other in islice(permutations(parts, 2), _SWAPS):
            yield {one: 1, other: -1}


def is_met(miss: float) -> bool:
    """Tell whether a ratio that misses by this share of its goal is near enough."""
    return abs(1 / (1 + miss) - 1) <= TOLERANCE
