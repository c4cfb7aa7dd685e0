"""Shares a total among groups by what a sensitivity table says each can bear: pure functions of curves.

Every group gives up as much as it can at one and the same cost, so that of all ways to reach the total
this one has the smallest highest cost. The cost is the drop measured, interpolated between amounts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import NoSensitivity
from app.domain.sensitivity import GroupSensitivity, SensitivityTable

_HALVINGS = 60
_ROUNDING = 1e-9

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """What a group costs as more of it goes; both rise strictly, amounts from 0 to 1."""

    amounts: Values
    costs: Values

    def amount(self, cost: float) -> float:
        """Give how much goes at this cost."""
        return float(np.interp(cost, self.costs, self.amounts))

    def cost(self, amount: float) -> float:
        return float(np.interp(amount, self.amounts, self.costs))


def curve_of(group: GroupSensitivity, table: SensitivityTable) -> Curve:
    """Draw the curve of a group through what was measured, from nothing to all of it.

    Noise is no gain: a drop is never taken to be less than at a smaller amount. Beyond the largest amount measured
    it rises to all of the metric. The whole of a group costs one row more than nothing of it, so that groups
    which lose nothing that can be seen go by equal amounts.
    """
    measured = sorted((found.amount, found.drop) for found in group.measurements if found.amount < 1)
    amounts = np.array([0.0, *(amount for amount, _ in measured), 1.0])
    drops = np.maximum.accumulate([0.0, *(drop for _, drop in measured), table.value])
    return Curve(amounts, drops + amounts / table.rows)


def worst(curves: Sequence[Curve]) -> Curve:
    """Give a curve that none of these is above: the highest of all at each amount measured."""
    amounts = np.unique(np.concatenate([curve.amounts for curve in curves]))
    return Curve(amounts, np.max([np.interp(amounts, curve.amounts, curve.costs) for curve in curves], axis=0))


def curves_of(table: SensitivityTable) -> dict[tuple[str, ...], Curve]:
    """Draw the curve of each group, by its layers; one that was not measured is taken to be as bad as the worst."""
    known = [curve_of(group, table) for group in table.groups if group.measurements]
    if not known:
        raise NoSensitivity("The table holds no measurement.", hint="Analyze again with more budget_seconds.")
    return {group.layers: curve_of(group, table) if group.measurements else worst(known) for group in table.groups}


def allocate(curves: Sequence[Curve], sizes: Sequence[int], ceilings: Sequence[float], share: float) -> list[float]:
    """Give the amount of each group, none above its ceiling, such that this share of all goes.

    Where the ceilings allow less, all of them are met.
    """
    due = share * sum(sizes)
    low, high = 0.0, max(float(curve.costs[-1]) for curve in curves)
    for _ in range(_HALVINGS):
        cost = (low + high) / 2
        low, high = (cost, high) if _total(curves, sizes, ceilings, cost) < due else (low, cost)
    return _amounts(curves, ceilings, high)


def apportion(
    curves: Sequence[Curve], sizes: Sequence[int], ceilings: Sequence[float], amounts: Sequence[float]
) -> list[int]:
    """Round amounts to whole units: down, and then what is missing of their total, unit by unit, where it costs least.

    Rounding a small group to the nearest could cost far more than anything that was meant to go.
    """
    exact = [amount * size for amount, size in zip(amounts, sizes, strict=True)]
    counts = [math.floor(value + _ROUNDING) for value in exact]
    for _ in range(round(sum(exact)) - sum(counts)):
        open_ = [place for place, size in enumerate(sizes) if counts[place] + 1 <= ceilings[place] * size + _ROUNDING]
        if not open_:
            break
        counts[min(open_, key=lambda place: curves[place].cost((counts[place] + 1) / sizes[place]))] += 1
    return counts


def _amounts(curves: Sequence[Curve], ceilings: Sequence[float], cost: float) -> list[float]:
    return [min(curve.amount(cost), ceiling) for curve, ceiling in zip(curves, ceilings, strict=True)]


def _total(curves: Sequence[Curve], sizes: Sequence[int], ceilings: Sequence[float], cost: float) -> float:
    return sum(amount * size for amount, size in zip(_amounts(curves, ceilings, cost), sizes, strict=True))
