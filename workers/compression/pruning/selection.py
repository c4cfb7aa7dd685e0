"""Which units go: pure functions of scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Part = tuple[str, ...]


def joined(parts: Iterable[Labels]) -> Labels:
    return np.concatenate([np.zeros(0, np.int64), *parts])


@dataclass(frozen=True)
class Line:
    """A dimension of which ``floor`` indices must stay; ``units`` tells how many indices each unit holds of it."""

    units: dict[int, int]
    size: int
    floor: int


def line(labels: Labels, floor: int) -> Line:
    """Make the line of a dimension whose indices belong to these units."""
    return Line(dict(Counter(labels.tolist())), len(labels), min(floor, len(labels)))


@dataclass(frozen=True)
class Share:
    """Units that compete with each other, the least important first, and how many of them go.

    What stays is a multiple of ``multiple``, where there are as many at all.
    """

    units: Labels
    count: int
    multiple: int = 1

    def ceiling(self) -> int:
        """Round the number that goes, so that what stays is the nearest multiple."""
        if self.multiple == 1 or len(self.units) < self.multiple:
            return self.count if self.multiple == 1 else 0
        stays = max(1, math.floor((len(self.units) - self.count) / self.multiple + 0.5)) * self.multiple
        return max(0, len(self.units) - stays)


def choose(shares: Iterable[Share], lines: Sequence[Line]) -> list[Labels]:
    """Choose the units of each share that go, such that each line keeps its floor."""
    left = [found.size for found in lines]
    member_of: dict[int, list[int]] = {}
    for place, found in enumerate(lines):
        for unit in found.units:
            member_of.setdefault(unit, []).append(place)
    chosen = []
    for share in shares:
        mine: list[int] = []
        for unit in share.units.tolist():
            if len(mine) == share.ceiling():
                break
            places = member_of.get(unit, [])
            if all(left[place] - lines[place].units[unit] >= lines[place].floor for place in places):
                mine.append(unit)
                for place in places:
                    left[place] -= lines[place].units[unit]
        # Where floors held units back, what stays may be no multiple: the last ones stay too.
        excess = -(len(share.units) - len(mine)) % share.multiple
        kept = mine[: max(0, len(mine) - excess)]
        for unit in mine[len(kept) :]:
            for place in member_of.get(unit, []):
                left[place] += lines[place].units[unit]
        chosen.append(np.array(kept, dtype=np.int64))
    return chosen


def partition(units: Labels, members: Iterable[tuple[str, Labels]]) -> dict[Part, Labels]:
    """Part units by the layers that they run through; ``members`` are layers and the units of their channels."""
    layers: dict[int, list[str]] = {unit: [] for unit in units.tolist()}
    for layer, labels in members:
        for unit in np.unique(labels).tolist():
            if unit in layers:
                layers[unit].append(layer)
    parts: dict[Part, list[int]] = {}
    for unit, names in layers.items():
        parts.setdefault(tuple(names), []).append(unit)
    return {names: np.array(part, dtype=np.int64) for names, part in parts.items()}
