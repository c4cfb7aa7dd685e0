"""The step that removes whole channels, with all that is coupled to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch

from app.domain.errors import CheckFailed, NoChange, NothingToPrune, TargetUnreachable
from app.domain.sensitivity import SensitivityTable
from app.domain.steps.prune import PruneSpec
from workers.compression.network import Network
from workers.compression.pruning.groups import Groups, find_groups
from workers.compression.pruning.plan import Plan, Quota, pools, quota, table_for, too_narrow
from workers.compression.pruning.rounds import Rounds, share_gone
from workers.compression.pruning.scoring import TAYLOR_ROWS, UNSCALED, scorable, score_pools, tensor_of
from workers.compression.pruning.selecting import Choice, Goal, Selector, goal_for, is_met
from workers.compression.pruning.selection import Labels, Part
from workers.compression.pruning.surgery import remove
from workers.compression.step import Context, StepResult


def run(network: Network, spec: PruneSpec, context: Context) -> StepResult:
    """Remove channels in ``spec.rounds`` rounds, until the amount is gone or the ratio is met.

    The first scores say how many go of each layer in all; those of each round say which of them.

    Raises:
        NothingToPrune: no channel can be removed; the reasons are in the message.
        NoChange: the amount rounds to no channel at all.
        TargetUnreachable: no choice of channels comes within 3 % of the ratio.
        NoSensitivity: the table that the step takes is not of these groups.
    """
    table, goal = table_for(spec, context), goal_for(network, spec)
    groups, found = whole, prunable = find_pools(network, spec, table)
    quotas = quota(groups, found, spec, table)
    rounds, smaller, removed = Rounds(spec, context), network, Counter[Part]()
    for number in range(1, spec.rounds + 1):
        if number > 1:
            groups = find_groups(smaller)
            found = pools(groups, scorable(smaller, groups, spec.criterion), spec, table)
        selector = Selector(smaller, groups, found, score_pools(smaller, groups, found, spec.criterion, context), spec)
        if number == 1:
            choice = _choose(selector, quotas, goal)
            plan = Plan(selector.count(choice.units), selector.count(whole.units))
            units = choice.units
        if spec.rounds > 1:
            due = plan.at(share_gone(spec, number))
            units = selector.by_parts({part: max(0, count - removed[part]) for part, count in due.items()})
        removed.update(selector.count(units))
        if units.size:
            smaller = remove(smaller, groups, units)
        smaller = rounds.end(smaller, len(units), "channels")
    details = {"rounds": rounds.rows, "round_to": choice.multiple} | (_require(goal, smaller) if goal else {})
    details |= {"prunable_channels": sum(quotas.totals.values()), "removed_channels": removed.total()}
    if not removed.total():
        raise NoChange(
            f"{spec.amount or 0:g} of {details['prunable_channels']} prunable channels rounds to none that can go.",
            hint="Ask for a larger amount, or for smaller multiples.",
        )
    _check(network, smaller)
    details |= _describe(network, smaller, whole, spec.criterion)
    details["too_narrow"] = [
        {
            "name": name,
            "reason": f"its {channels} channels are no more than the multiple of {choice.multiple} that stays",
        }
        for name, channels in too_narrow(whole, prunable, choice.multiple).items()
    ]
    if table:
        details["sensitivity"] = quotas.outcome(removed)
    if spec.criterion == "taylor":
        details["gradient_rows"] = min(TAYLOR_ROWS, context.data.rows("train"))
    return StepResult(smaller, details, rounds.earlier_seconds, spec.model_copy(update={"round_to": choice.multiple}))


def find_pools(
    network: Network, spec: PruneSpec, table: SensitivityTable | None = None
) -> tuple[Groups, dict[Part, Labels]]:
    """Find what can be removed, as it competes. Raises NothingToPrune where there is nothing, with the reasons."""
    groups = find_groups(network)
    if not groups.units.size:
        raise NothingToPrune(_explain(groups), hint="Distil or quantize this network instead.")
    units = scorable(network, groups, spec.criterion)
    if not units.size:
        raise NothingToPrune(f"Of the prunable layers: {UNSCALED}.", hint="Choose l2 or taylor.")
    found = pools(groups, units, spec, table)
    if not found:
        raise NothingToPrune("Every layer that could lose channels is excluded.", hint="Exclude fewer layers.")
    return groups, found


def _choose(selector: Selector, quotas: Quota, goal: Goal | None) -> Choice:
    """Choose as if all were to go at once. Raises TargetUnreachable for a ratio, before anything is trained."""
    if goal is None:
        return selector.by_amount(quotas, selector.spec.amount or 0.0)
    choice = selector.by_goal(quotas, goal)
    if selector.spec.rounds > 1:
        _require(goal, remove(selector.network, selector.groups, choice.units))
    return choice


def _require(goal: Goal, network: Network) -> dict[str, object]:
    """Tell which ratio the network meets. Raises TargetUnreachable where it is too far from the one asked for."""
    if not is_met(goal.miss(network)):
        raise TargetUnreachable(
            f"a ratio of {goal.ratio:g} was asked for; the nearest that these layers allow is {goal.met(network):.3f}",
            hint="Ask for that ratio, exclude fewer layers, or lower minimum_channels and round_to.",
        )
    return {goal.name: goal.met(network)}


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


def _describe(before: Network, after: Network, groups: Groups, criterion: str) -> dict[str, object]:
    """Tell what was cut, what was not and why: of the network as it came in, whose groups these are."""
    names, known = groups.names(), scorable(before, groups, criterion)
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
    unscored = [p.layer for p in groups.producers if p.layer in names and not np.isin(p.labels, known).any()]
    return {
        "groups_touched": len({row["group"] for row in layers if row["channels_before"] != row["channels_after"]}),
        "layers": layers,
        "unprunable": [{"name": name, "reason": reason} for name, reason in groups.reasons.items()],
        "unscored": [{"name": name, "reason": UNSCALED} for name in unscored],
        "unknown_operators": [{"node": node, "op": op} for node, op in groups.walk.unknown.items()],
    }
