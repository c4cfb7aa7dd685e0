"""The step that removes whole channels, with all that is coupled to them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from app.domain.errors import CheckFailed, NoChange, NothingToPrune
from app.domain.recipe import PruneSpec
from workers.compression.network import Network
from workers.compression.pruning.groups import Groups, find_groups
from workers.compression.pruning.scoring import UNSCALED, scorable, score, tensor_of
from workers.compression.pruning.selection import choose, partition
from workers.compression.pruning.surgery import remove
from workers.compression.step import Context, StepResult

Part = tuple[str, ...]


def run(network: Network, spec: PruneSpec, context: Context) -> StepResult:
    """Remove ``spec.amount`` of the prunable channels in ``spec.rounds`` rounds.

    Raises:
        NothingToPrune: no channel can be removed; the reasons are in the message.
        NoChange: the amount rounds to no channel at all.
    """
    groups = find_groups(network)
    if not groups.units.size:
        raise NothingToPrune(_explain(groups), hint="Distil or quantize this network instead.")
    candidates = scorable(network, groups, spec.criterion)
    if not candidates.size:
        raise NothingToPrune(f"Of the prunable layers: {UNSCALED}.", hint="Choose l2 or taylor.")
    totals = {part: len(units) for part, units in _parts(groups, candidates, spec.scope).items()}
    smaller, removed = network, dict.fromkeys(totals, 0)
    for done in range(1, spec.rounds + 1):
        if done > 1:
            groups = find_groups(smaller)
        targets = {part: round(total * spec.amount * done / spec.rounds) for part, total in totals.items()}
        units = _select(
            smaller, groups, spec, context, {part: targets[part] - removed[part] for part in totals}, removed
        )
        if units.size:
            smaller = remove(smaller, groups, units)
        context.fraction(done / spec.rounds, f"round {done} of {spec.rounds}: {len(units)} channels removed")
    taken = sum(removed.values())
    if not taken:
        raise NoChange(
            f"{spec.amount:g} of {sum(totals.values())} prunable channels rounds to none that can go.",
            hint="Ask for a larger amount.",
        )
    _check(network, smaller)
    details = _details(network, smaller, sum(totals.values()), taken)
    return StepResult(smaller, details | _unscored(network, spec.criterion))


def _members(groups: Groups) -> list[tuple[str, NDArray[np.int64]]]:
    return [(producer.weight, producer.labels) for producer in groups.producers]


def _parts(groups: Groups, units: NDArray[np.int64], scope: str) -> dict[Part, NDArray[np.int64]]:
    """Part the units into those that compete with each other."""
    return {(): units} if scope == "global" else partition(units, _members(groups))


def _select(
    network: Network,
    groups: Groups,
    spec: PruneSpec,
    context: Context,
    counts: dict[Part, int],
    removed: dict[Part, int],
) -> NDArray[np.int64]:
    """Choose this round's units and add their number to ``removed``."""
    candidates = scorable(network, groups, spec.criterion)
    scores = score(network, groups, candidates, spec.criterion, context)
    lines = list(groups.lines)
    chosen = [np.zeros(0, np.int64)]
    for part, units in _parts(groups, candidates, spec.scope).items():
        mine = choose(units, scores[np.searchsorted(candidates, units)], lines, counts.get(part, 0))
        # What has gone already leaves its lines shorter for the parts that follow.
        lines = [line[~np.isin(line, mine)] for line in lines]
        removed[part] = removed.get(part, 0) + len(mine)
        chosen.append(mine)
    return np.concatenate(chosen)


def _check(before: Network, after: Network) -> None:
    inputs = before.example_inputs()
    with torch.no_grad():
        expected, outputs = (_listed(network.module(*inputs)) for network in (before, after))
    for want, got in zip(expected, outputs, strict=True):
        if want.shape != got.shape:
            raise CheckFailed(f"Pruning changed an output's shape from {list(want.shape)} to {list(got.shape)}.")
        if bool(torch.isfinite(want).all()) and not bool(torch.isfinite(got).all()):
            raise CheckFailed("Pruning made outputs that are not finite.")


def _listed(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> Iterable[torch.Tensor]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _explain(groups: Groups) -> str:
    found = "; ".join(f"{layer}: {reason}" for layer, reason in groups.reasons.items())
    return f"No channel can be removed. {found or 'The network has no layer that makes channels.'}"


def _unscored(network: Network, criterion: str) -> dict[str, object]:
    """List the layers that could lose channels and that the criterion cannot judge."""
    groups = find_groups(network)
    known = scorable(network, groups, criterion)
    layers = [p.layer for p in groups.producers if p.layer in groups.names() and not np.isin(p.labels, known).any()]
    return {"unscored": [{"name": layer, "reason": UNSCALED} for layer in layers]}


def _details(before: Network, after: Network, prunable: int, removed: int) -> dict[str, object]:
    """Tell what was cut, what was not and why: of the network as it came in."""
    groups = find_groups(before)
    names = groups.names()
    layers = [
        {
            "name": producer.layer,
            "group": names[producer.layer],
            "channels_before": tensor_of(before, producer.weight).shape[producer.axis],
            "channels_after": tensor_of(after, producer.weight).shape[producer.axis],
        }
        for producer in groups.producers
        if producer.layer in names
    ]
    touched = {str(row["group"]) for row in layers if row["channels_before"] != row["channels_after"]}
    return {
        "prunable_channels": prunable,
        "removed_channels": removed,
        "groups_touched": len(touched),
        "layers": layers,
        "unprunable": [{"name": name, "reason": reason} for name, reason in groups.reasons.items()],
        "unknown_operators": [{"node": node, "op": op} for node, op in groups.walk.unknown.items()],
    }
