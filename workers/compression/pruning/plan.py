"""How many units go where: amounts, exceptions by name, floors and multiples."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from app.domain.recipe import PruneSpec
from workers.compression.pruning.groups import Groups
from workers.compression.pruning.selection import Labels, Part, Share, choose, line, partition

Counts = dict[Part, int]


def pools(groups: Groups, units: Labels, spec: PruneSpec) -> dict[Part, Labels]:
    """Part the units into those that compete: by their layers, or all together under () where scope is global.

    Units of a layer that is excluded stand in none; those of one with an amount of its own never compete globally.
    """
    found: dict[Part, Labels] = {}
    for part, mine in _parts(groups, units).items():
        if any(fnmatchcase(layer, pattern) for layer in part for pattern in spec.exclude):
            continue
        key = part if spec.scope == "layer" or override(part, spec) is not None else ()
        found[key] = np.union1d(found.get(key, np.zeros(0, np.int64)), mine)
    return found


def override(part: Part, spec: PruneSpec) -> float | None:
    """Give the amount that the first matching pattern sets for these layers, None where there is none."""
    matching = (
        amount for pattern, amount in spec.overrides.items() if any(fnmatchcase(layer, pattern) for layer in part)
    )
    return next(matching, None)


def pick(
    groups: Groups, found: dict[Part, Labels], scores: dict[int, float], counts: Counts, spec: PruneSpec
) -> Labels:
    """Choose ``counts`` of the least important units of each pool, within floors and multiples."""
    lines = [line(labels, 1) for labels in groups.lines]
    lines += [line(producer.labels, spec.minimum_channels) for producer in groups.producers]

    def ranked(units: Labels) -> Labels:
        return units[np.argsort([scores[unit] for unit in units.tolist()], kind="stable")]

    chosen = _joined(choose([Share(ranked(units), counts[key]) for key, units in found.items()], lines))
    if spec.round_to == 1:
        return chosen
    parts = _parts(groups, _joined(list(found.values())))
    shares = [
        Share(ranked(units), int(np.isin(units, chosen).sum()), _multiple(groups, units, spec.round_to))
        for units in parts.values()
    ]
    return _joined(choose(shares, lines))


def tally(found: dict[Part, Labels], units: Labels) -> Counts:
    """Count these units by pool."""
    return {key: int(np.isin(mine, units).sum()) for key, mine in found.items()}


def _parts(groups: Groups, units: Labels) -> dict[Part, Labels]:
    return partition(units, [(producer.layer, producer.labels) for producer in groups.producers])


def _multiple(groups: Groups, units: Labels, channels: int) -> int:
    """Tell of how many units a multiple must stay, so that a multiple of ``channels`` does."""
    held: set[int] = set()
    for producer in groups.producers:
        held.update(np.unique(producer.labels[np.isin(producer.labels, units)], return_counts=True)[1].tolist())
    return channels // math.gcd(channels, *held)


def _joined(parts: list[NDArray[np.int64]]) -> Labels:
    return np.concatenate([np.zeros(0, np.int64), *parts])
