"""Chooses a round's units: the least important, so many that the amount or the ratio is met, in multiples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, permutations

import numpy as np

from app.domain.steps.prune import PruneSpec
from workers.compression.counting import count_macs, count_parameters
from workers.compression.network import Network
from workers.compression.pruning.groups import Groups
from workers.compression.pruning.plan import Counts, Shift, parts_of, pick, tally
from workers.compression.pruning.selection import Labels, Part
from workers.compression.pruning.surgery import remove

TOLERANCE = 0.03
"""How far the ratio that is met may lie from the one that was asked for."""
MULTIPLES = (8, 4, 2, 1)
"""What ``auto`` tries, in this order: ADR 13 has what each gains in ONNX Runtime on a CPU."""
_CLOSE_ENOUGH, _TRIALS, _MOVES, _SWAPS = 0.001, 14, 24, 60


@dataclass(frozen=True)
class Goal:
    """What a measure of the network has to come down to."""

    measure: Callable[[Network], int]
    value: float

    def miss(self, network: Network) -> float:
        """Tell how far the network is from it, as a share of it; more than 0 where it is too large."""
        return self.measure(network) / self.value - 1


@dataclass(frozen=True)
class Choice:
    """The units that go and the multiple of channels that stays."""

    units: Labels
    multiple: int


def measure_for(spec: PruneSpec) -> tuple[Callable[[Network], int], float | None]:
    """Give what a ratio is asked of, and the ratio; None where an amount was asked for."""
    return (count_macs, spec.macs_ratio) if spec.macs_ratio else (count_parameters, spec.parameters_ratio)


def goal_for(network: Network, spec: PruneSpec, gone: float) -> Goal | None:
    """Give what is to be met once this part of the whole is gone, None where an amount was asked for."""
    measure, ratio = measure_for(spec)
    return Goal(measure, measure(network) * (1 - (1 - 1 / ratio) * gone)) if ratio else None


@dataclass(frozen=True)
class Selector:
    """What one round chooses from."""

    network: Network
    groups: Groups
    pools: dict[Part, Labels]
    scores: dict[int, float]
    spec: PruneSpec

    def by_amount(self, counts: Counts) -> Choice:
        """Choose ``counts`` of each pool, by the largest multiple that takes as many within 3 %."""
        if self.spec.round_to != "auto":
            return Choice(self._pick(counts, self.spec.round_to), self.spec.round_to)
        exact = len(self._pick(counts, 1))
        choices = (Choice(self._pick(counts, multiple), multiple) for multiple in MULTIPLES)
        return next(found for found in choices if abs(len(found.units) - exact) <= TOLERANCE * exact)

    def by_goal(self, due: Callable[[float], Counts], goal: Goal) -> Choice:
        """Choose the share of all pools that comes nearest, by the largest multiple that comes within 3 %."""
        asked = MULTIPLES if self.spec.round_to == "auto" else (self.spec.round_to,)
        found: list[tuple[float, Choice]] = []
        for multiple in asked:
            miss, units = self._search(due, goal, multiple)
            if is_met(miss):
                return Choice(units, multiple)
            found.append((abs(miss), Choice(units, multiple)))
        return min(found, key=lambda pair: pair[0])[1]

    def by_plan(self, plan: Counts) -> Labels:
        """Choose what is left of a plan, which other scores than those of now found to meet the ratio."""
        parts = parts_of(self.groups, self.pools)
        counts = {part: plan.get(part, 0) for part in parts}
        return pick(self.groups, parts, self.scores, counts, self.spec, multiple=1)

    def count(self, units: Labels) -> Counts:
        """Count units by the layers that they run through, which is all that a ratio depends on."""
        return tally(parts_of(self.groups, self.pools), units)

    def touched(self, plan: Counts) -> Selector:
        """Give one that chooses from the layers alone of which a plan still has something to go."""
        parts = parts_of(self.groups, self.pools).items()
        open_ = np.concatenate([np.zeros(0, np.int64), *(units for part, units in parts if plan.get(part, 0) > 0)])
        return replace(self, pools={key: units[np.isin(units, open_)] for key, units in self.pools.items()})

    def within(self, units: Labels, plan: Counts) -> Labels:
        """Leave out the most important of these units wherever a plan has fewer."""
        kept = [np.zeros(0, np.int64)]
        for part, mine in parts_of(self.groups, self.pools).items():
            chosen = mine[np.isin(mine, units)]
            order = np.argsort([self.scores[unit] for unit in chosen.tolist()], kind="stable")
            kept.append(chosen[order][: plan.get(part, 0)])
        return np.concatenate(kept)

    def _pick(self, counts: Counts, multiple: int, shift: Shift | None = None) -> Labels:
        return pick(self.groups, self.pools, self.scores, counts, self.spec, multiple=multiple, shift=shift)

    def _search(self, due: Callable[[float], Counts], goal: Goal, multiple: int) -> tuple[float, Labels]:
        """Halve the interval of shares; where all jump past the goal at once, move single layers by a multiple."""
        best, nearest, at = np.zeros(0, np.int64), goal.miss(self.network), 0.0
        low, high = 0.0, 1.0
        for _ in range(_TRIALS):
            share = (low + high) / 2
            units = self._pick(due(share), multiple)
            miss = goal.miss(remove(self.network, self.groups, units))
            if abs(miss) < abs(nearest):
                best, nearest, at = units, miss, share
            if abs(miss) <= _CLOSE_ENOUGH:
                break
            low, high = (share, high) if miss > 0 else (low, share)
        if is_met(nearest):
            return nearest, best
        for units in self._moved(due(at), multiple, more=nearest > 0):
            miss = goal.miss(remove(self.network, self.groups, units))
            if abs(miss) < abs(nearest):
                best, nearest = units, miss
            if is_met(nearest):
                break
        return nearest, best

    def _moved(self, counts: Counts, multiple: int, *, more: bool) -> Iterator[Labels]:
        """Give choices in which one layer, then two, and so on, loses one multiple more or fewer.

        At last one loses more and another fewer, which is finer than any single move.
        """
        shift: dict[Part, int] = {}
        parts = sorted(parts_of(self.groups, self.pools), key=lambda part: (len(part), part))
        for place in range(_MOVES if parts else 0):
            part = parts[place % len(parts)]
            single = {part: 1 if more else -1}
            yield self._pick(counts, multiple, single)
            shift[part] = shift.get(part, 0) + single[part]
            if len(shift) > 1:
                yield self._pick(counts, multiple, shift)
        for one, other in islice(permutations(parts, 2), _SWAPS):
            yield self._pick(counts, multiple, {one: 1, other: -1})


def is_met(miss: float) -> bool:
    """Tell whether a ratio that misses by this share of its goal is near enough."""
    return abs(1 / (1 + miss) - 1) <= TOLERANCE
