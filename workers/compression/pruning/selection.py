"""Which units go: pure functions of scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


def choose(candidates: Labels, scores: NDArray[np.float64], lines: Sequence[Labels], count: int) -> Labels:
    """Choose up to ``count`` of the least important units, such that each line keeps one at least."""
    left = [len(line) for line in lines]
    member_of: dict[int, list[int]] = {}
    for place, line in enumerate(lines):
        for unit in line.tolist():
            member_of.setdefault(unit, []).append(place)
    chosen: list[int] = []
    for unit in candidates[np.argsort(scores, kind="stable")].tolist():
        if len(chosen) == count:
            break
        places = member_of.get(unit, [])
        if all(left[place] > 1 for place in places):
            chosen.append(unit)
            for place in places:
                left[place] -= 1
    return np.array(chosen, dtype=np.int64)


def partition(units: Labels, members: Iterable[tuple[str, Labels]]) -> dict[tuple[str, ...], Labels]:
    """Part units by the layers that they run through; ``members`` are layers and the units of their channels."""
    layers: dict[int, list[str]] = {unit: [] for unit in units.tolist()}
    for layer, labels in members:
        for unit in np.unique(labels).tolist():
            if unit in layers:
                layers[unit].append(layer)
    parts: dict[tuple[str, ...], list[int]] = {}
    for unit, names in layers.items():
        parts.setdefault(tuple(names), []).append(unit)
    return {names: np.array(part, dtype=np.int64) for names, part in parts.items()}
