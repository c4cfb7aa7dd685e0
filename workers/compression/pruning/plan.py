"""How many units go where: amounts, exceptions by name, floors and multiples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from app.domain.errors import NoSensitivity
from app.domain.sensitivity import SensitivityTable
from app.domain.steps.prune import MOST_AMOUNT, PruneSpec
from workers.compression.pruning.allocation import Curve, allocate, apportion, curves_of
from workers.compression.pruning.groups import Groups
from workers.compression.pruning.selection import Labels, Part, Share, choose, joined, line, partition
from workers.compression.step import Context

Counts = dict[Part, int]
Shift = Mapping[Part, int]


def pools(groups: Groups, units: Labels, spec: PruneSpec, table: SensitivityTable | None = None) -> dict[Part, Labels]:
    """Part the units into those that compete: by their layers, or all together under () where scope is global.

    Units of a layer that is excluded stand in none; those of one with an amount of its own never compete globally.
    With a sensitivity table, units of one of its groups compete with each other, and an amount of a layer's own is
    that of its group. Raises NoSensitivity where the table lacks their layers.
    """
    group_of = {layer: group.layers for group in table.groups for layer in group.layers} if table else {}
    found: dict[Part, Labels] = {}
    for part, mine in _parts(groups, units).items():
        if any(fnmatchcase(layer, pattern) for layer in part for pattern in spec.exclude):
            continue
        key = part if spec.scope == "layer" or override(part, spec) is not None else ()
        if table and part[0] in group_of:
            key = group_of[part[0]]
        elif table and not key:
            raise NoSensitivity(f"The table has no group with the layer {part[0]!r}.", hint="Analyze this model.")
        found[key] = np.union1d(found.get(key, np.zeros(0, np.int64)), mine)
    return found


@dataclass(frozen=True)
class Quota:
    """How many units of each pool go in all: of a share that holds for all of them, or of an amount of its own."""

    totals: Counts
    fixed: dict[Part, float]
    curves: dict[Part, Curve]
    """What the pools that go by their sensitivity cost; none where all go by the same share."""
    ceilings: dict[Part, float]

    def at(self, share: float) -> Counts:
        """Count what goes by ``share`` of the units, or by the amounts that are fixed."""
        counts = {part: round(total * self.fixed.get(part, share)) for part, total in self.totals.items()}
        if self.curves:
            amounts = list(self.amounts(share).values())
            counts |= zip(self.curves, apportion(*self._groups(), amounts), strict=True)
        return counts

    def amounts(self, share: float) -> dict[Part, float]:
        """Give the amounts of the pools that go by their sensitivity."""
        return dict(zip(self.curves, allocate(*self._groups(), share), strict=True))

    def _groups(self) -> tuple[list[Curve], list[int], list[float]]:
        parts = list(self.curves)
        return (
            [self.curves[part] for part in parts],
            [self.totals[part] for part in parts],
            [self.ceilings[part] for part in parts],
        )

    def outcome(self, removed: Counts) -> list[dict[str, object]]:
        """Tell for the report what went of each group, and the drop that its curve expects of that alone.

        What was removed may be counted by parts of the groups.
        """
        rows: list[dict[str, object]] = []
        for group, curve in self.curves.items():
            amount = sum(count for part, count in removed.items() if part[0] in group) / self.totals[group]
            rows.append({"layers": list(group), "amount": amount, "expected_drop": curve.cost(amount)})
        return rows


@dataclass(frozen=True)
class Plan:
    """How many units go in all rounds together, by the layers that they run through; ``sizes`` is how many there are.

    It holds through all rounds, so that ratio and multiples are met in the end, however scores change on the way.
    """

    counts: Counts
    sizes: Counts

    def at(self, gone: float) -> Counts:
        """Count what is to be gone behind a round, when this part of all is.

        Two units of all stay until the last: of a layer that is left with one, the next round would find other groups.
        """
        if gone == 1:
            return self.counts
        ceilings = {part: min(count, max(0, self.sizes[part] - 2)) for part, count in self.counts.items()}
        exact = {part: count * gone for part, count in self.counts.items()}
        counts = {part: min(math.floor(exact[part]), ceiling) for part, ceiling in ceilings.items()}
        open_ = [part for part, ceiling in ceilings.items() if counts[part] < ceiling]
        open_.sort(key=lambda part: exact[part] - counts[part], reverse=True)
        for part in open_[: round(sum(exact.values())) - sum(counts.values())]:
            counts[part] += 1
        return counts


def table_for(spec: PruneSpec, context: Context) -> SensitivityTable | None:
    """Give the table that the step takes, None where it takes none. Raises NoSensitivity where it is of no use."""
    if spec.sensitivity is None:
        return None
    table = context.sensitivities.get(spec.sensitivity)
    if table is None:
        raise NoSensitivity(f"There is no table of {spec.sensitivity}.", hint="Analyze the model with another job.")
    if (table.granularity, table.criterion) != (spec.granularity, spec.criterion):
        raise NoSensitivity(
            f"The table is of {table.granularity} by {table.criterion}, the step of {spec.granularity} by"
            f" {spec.criterion}."
        )
    return table


def quota(groups: Groups, found: dict[Part, Labels], spec: PruneSpec, table: SensitivityTable | None = None) -> Quota:
    """Tell how many units of each pool go, which floors and multiples may keep some of back."""
    totals = {part: len(units) for part, units in found.items()}
    fixed = {part: own for part in found if (own := override(part, spec)) is not None}
    known = curves_of(table) if table else {}
    curves = {part: known[part] for part in found if part in known and part not in fixed}
    ceilings = {part: min(MOST_AMOUNT, _removable(groups, found[part], spec) / totals[part]) for part in curves}
    return Quota(totals, fixed, curves, ceilings)


def _removable(groups: Groups, units: Labels, spec: PruneSpec) -> int:
    """Count the units that floors and multiples let go of a pool."""
    scores = dict.fromkeys(units.tolist(), 0.0)
    multiple = 1 if spec.round_to == "auto" else spec.round_to
    return len(pick(groups, {(): units}, scores, {(): len(units)}, spec, multiple=multiple))


def override(part: Part, spec: PruneSpec) -> float | None:
    """Give the amount that the first matching pattern sets for these layers, None where there is none."""
    matching = (
        amount for pattern, amount in spec.overrides.items() if any(fnmatchcase(layer, pattern) for layer in part)
    )
    return next(matching, None)


def pick(
    groups: Groups,
    found: dict[Part, Labels],
    scores: dict[int, float],
    counts: Counts,
    spec: PruneSpec,
    *,
    multiple: int,
    shift: Shift | None = None,
) -> Labels:
    """Choose ``counts`` of the least important units of each pool, within floors and such that multiples stay.

    Of the layers in ``shift``, so many multiples more go than that.
    """
    lines = [line(labels, 1) for labels in groups.lines]
    lines += [line(producer.labels, spec.minimum_channels) for producer in groups.producers]

    def ranked(units: Labels) -> Labels:
        return units[np.argsort([scores[unit] for unit in units.tolist()], kind="stable")]

    chosen = joined(choose([Share(ranked(units), counts.get(key, 0)) for key, units in found.items()], lines))
    if multiple == 1 and not shift:
        return chosen
    shares = []
    for part, units in parts_of(groups, found).items():
        stays = _multiple(groups, units, multiple)
        more = (shift or {}).get(part, 0) * stays
        shares.append(Share(ranked(units), int(np.isin(units, chosen).sum()) + more, stays))
    return joined(choose(shares, lines))


def parts_of(groups: Groups, found: dict[Part, Labels]) -> dict[Part, Labels]:
    """Part the units of all pools by the layers that they run through."""
    return _parts(groups, joined(found.values()))


def too_narrow(groups: Groups, found: dict[Part, Labels], multiple: int) -> dict[str, int]:
    """Tell the channels of the layers that stay whole because they have no multiple of channels to keep."""
    narrow = {
        layer
        for part, units in parts_of(groups, found).items()
        if len(units) <= _multiple(groups, units, multiple) and multiple > 1
        for layer in part
    }
    return {p.layer: len(p.labels) for p in groups.producers if p.layer in narrow}


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
