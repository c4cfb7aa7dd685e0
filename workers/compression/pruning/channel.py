"""The step that removes whole channels, with all that is coupled to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from app.domain.errors import CheckFailed, NoChange, NothingToPrune, TargetUnreachable
from app.domain.sensitivity import SensitivityTable
from app.domain.steps.prune import PruneSpec
from workers.compression.network import Network
from workers.compression.pruning.groups import Groups, find_groups
from workers.compression.pruning.plan import Counts, Quota, pools, quota, table_for, tally, too_narrow
from workers.compression.pruning.rounds import Rounds, share_gone
from workers.compression.pruning.scoring import TAYLOR_ROWS, UNSCALED, scorable, score, tensor_of
from workers.compression.pruning.selecting import TOLERANCE, Choice, Goal, Selector, goal_for, is_met, measure_for
from workers.compression.pruning.selection import Labels, Part
from workers.compression.pruning.surgery import remove
from workers.compression.step import Context, StepResult


def run(network: Network, spec: PruneSpec, context: Context) -> StepResult:
    """Remove channels in ``spec.rounds`` rounds, until the amount is gone or the ratio is met.

    Raises:
        NothingToPrune: no channel can be removed; the reasons are in the message.
        NoChange: the amount rounds to no channel at all.
        TargetUnreachable: no choice of channels comes within 3 % of the ratio.
        NoSensitivity: the table that the step takes is not of these groups.
    """
    table = table_for(spec, context)
    groups, found = find_pools(network, spec, table)
    quotas = quota(groups, found, spec, table)
    first, smaller, removed = (groups, found), network, dict.fromkeys(found, 0)
    rounds, plan = Rounds(spec, context), None
    for number in range(1, spec.rounds + 1):
        if number > 1:
            groups = find_groups(smaller)
            found = pools(groups, scorable(smaller, groups, spec.criterion), spec, table)
        gone = share_gone(spec, number)
        due = _Due(quotas, gone, removed)
        selector = _selector(smaller, groups, found, spec, context)
        if number == 1 and spec.rounds > 1:
            plan, spec = _plan(network, selector, quotas)
            selector = replace(selector, spec=spec)
        choice = _select(selector, due, goal_for(network, spec, gone), plan, last=number == spec.rounds)
        units = choice.units
        if plan is not None:
            plan = {part: count - selector.count(units).get(part, 0) for part, count in plan.items()}
        for part, count in tally(found, units).items():
            removed[part] = removed.get(part, 0) + count
        if units.size:
            smaller = remove(smaller, groups, units)
        smaller = rounds.end(smaller, len(units), "channels")
    met, taken = _ratio_met(network, smaller, spec), sum(removed.values())
    if not taken:
        raise NoChange(
            f"{spec.amount or 0:g} of {sum(quotas.totals.values())} prunable channels rounds to none that can go.",
            hint="Ask for a larger amount, or for smaller multiples.",
        )
    _check(network, smaller)
    details = _details(network, smaller, sum(quotas.totals.values()), taken)
    details |= met | _unscored(network, spec.criterion) | {"rounds": rounds.rows, "round_to": choice.multiple}
    details["too_narrow"] = [
        {
            "name": name,
            "reason": f"its {channels} channels are no more than the multiple of {choice.multiple} that stays",
        }
        for name, channels in too_narrow(*first, choice.multiple).items()
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


@dataclass(frozen=True)
class _Due:
    """What goes in a round, behind which this part of the whole is ``gone``; earlier ones removed some already."""

    quota: Quota
    gone: float
    removed: Counts

    def at(self, share: float) -> Counts:
        """Count what is due of each pool once this share of the units is to be gone."""
        return {part: max(0, count - self.removed[part]) for part, count in self.quota.at(share, self.gone).items()}


def _selector(
    network: Network, groups: Groups, found: dict[Part, Labels], spec: PruneSpec, context: Context
) -> Selector:
    candidates = np.concatenate(list(found.values())) if found else np.zeros(0, np.int64)
    candidates.sort()
    values = score(network, groups, candidates, spec.criterion, context)
    return Selector(network, groups, found, dict(zip(candidates.tolist(), values.tolist(), strict=True)), spec)


def _plan(network: Network, selector: Selector, quotas: Quota) -> tuple[Counts | None, PruneSpec]:
    """Choose as if one round had to meet the ratio, None where an amount was asked for; fix the multiple by it.

    Raises TargetUnreachable where none could, before anything is trained.
    """
    goal = goal_for(network, selector.spec, 1.0)
    if goal is None:
        return None, selector.spec
    choice = selector.by_goal(lambda share: quotas.at(share, 1.0), goal)
    _ratio_met(network, remove(network, selector.groups, choice.units), selector.spec)
    return selector.count(choice.units), selector.spec.model_copy(update={"round_to": choice.multiple})


def _select(selector: Selector, due: _Due, goal: Goal | None, plan: Counts | None, *, last: bool) -> Choice:
    """Choose this round's units: as many as are due for the amount, or for the share that comes nearest to a goal.

    No round but the last goes beyond the plan, so that the last can always keep to it, however scores changed.
    """
    if goal is None:
        return selector.by_amount(due.at((selector.spec.amount or 0.0) * due.gone))
    if plan is not None and not last:
        selector = selector.touched(plan)
    choice = selector.by_goal(due.at, goal)
    if plan is None:
        return choice
    if not last:
        return Choice(selector.within(choice.units, plan), choice.multiple)
    met = is_met(goal.miss(remove(selector.network, selector.groups, choice.units)))
    return choice if met else replace(choice, units=selector.by_plan(plan))


def _ratio_met(before: Network, after: Network, spec: PruneSpec) -> dict[str, object]:
    """Tell which ratio was met. Raises TargetUnreachable where it is too far from the one asked for."""
    measure, wanted = measure_for(spec)
    if not wanted:
        return {}
    met = measure(before) / measure(after)
    if abs(met / wanted - 1) > TOLERANCE:
        raise TargetUnreachable(
            f"a ratio of {wanted:g} was asked for; the nearest that these layers allow is {met:.3f}",
            hint="Ask for that ratio, exclude fewer layers, or lower minimum_channels and round_to.",
        )
    return {"macs_ratio" if spec.macs_ratio else "parameters_ratio": met}


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
