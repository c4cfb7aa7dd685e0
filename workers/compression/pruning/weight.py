"""The step that sets single weights to zero; the network keeps its shape."""

from __future__ import annotations

import torch

from app.domain.errors import NoChange, NoSensitivity
from app.domain.steps.prune import MOST_AMOUNT, PruneSpec
from workers.compression.network import Network
from workers.compression.pruning.allocation import curves_of
from workers.compression.pruning.masks import all_but, lowest, lowest_of_rows, wanda
from workers.compression.pruning.plan import Quota, override, table_for
from workers.compression.pruning.rounds import Rounds, share_gone
from workers.compression.pruning.weights import WANDA_ROWS, Layers, input_norms, prunable_layers
from workers.compression.step import Context, StepResult


def run(network: Network, spec: PruneSpec, context: Context) -> StepResult:
    """Zero ``spec.amount`` of the weights of convolutions and linear layers, or all but n of every m inputs.

    Zeros count towards the amount and stay through recoveries, so that each round adds to those before.

    Raises:
        NothingToPrune: no layer can be pruned so; the reasons are in the message.
        NoChange: no weight became zero that was not.
    """
    smaller = network.clone()
    layers, reasons = prunable_layers(smaller, spec)
    zeros = _count_zeros(layers)
    quotas = _quota(layers, spec, context)
    rounds = Rounds(spec, context)
    for number in range(1, spec.rounds + 1):
        before = sum(_count_zeros(layers).values())
        passed = share_gone(spec, number)
        amount = (spec.amount or 0.0) * passed
        amounts = quotas and {name: share for (name,), share in quotas.amounts(amount).items()}
        scores = score_weights(smaller, layers, spec, context)
        for name, gone in _choose(scores, layers, spec, amounts or amount, passed).items():
            layers[name].weight.masked_fill_(gone, 0)
        smaller = rounds.end(smaller, sum(_count_zeros(layers).values()) - before, "weights")
        layers, _ = prunable_layers(smaller, spec)
    rows = _describe(layers, zeros)
    total, left = (sum(int(str(row[key])) for row in rows) for key in ("weights", "zeros_after"))
    if left <= sum(zeros.values()):
        raise NoChange("no weight became zero that was not", hint="Ask for a larger amount.")
    details: dict[str, object] = {"layers": rows, "sparsity": left / total, "rounds": rounds.rows}
    details["unprunable"] = [{"name": name, "reason": reason} for name, reason in reasons.items()]
    if quotas:
        details["sensitivity"] = quotas.outcome({(str(row["name"]),): int(str(row["zeros_after"])) for row in rows})
    if spec.criterion == "wanda":
        details["calibration_rows"] = min(WANDA_ROWS, context.data.rows("calibration"))
    return StepResult(smaller, details, rounds.earlier_seconds)


def _describe(layers: Layers, zeros_before: dict[str, int]) -> list[dict[str, object]]:
    after = _count_zeros(layers)
    return [
        {
            "name": name,
            "weights": part.weight.numel(),
            "zeros_before": zeros_before[name],
            "zeros_after": after[name],
        }
        for name, part in layers.items()
    ]


def _count_zeros(layers: Layers) -> dict[str, int]:
    return {name: int((part.weight == 0).sum()) for name, part in layers.items()}


def score_weights(network: Network, layers: Layers, spec: PruneSpec, context: Context) -> dict[str, torch.Tensor]:
    """Score every weight; one that is zero already scores below all others."""
    if spec.criterion == "random":
        generator = torch.Generator().manual_seed(context.seed)
        scores = {name: torch.rand(part.weight.shape, generator=generator) for name, part in layers.items()}
    elif spec.criterion == "wanda":
        norms = input_norms(network, list(layers), context)
        scores = {name: wanda(part.weight, norms[name]) for name, part in layers.items()}
    else:
        scores = {name: part.weight.abs() for name, part in layers.items()}
    return {name: found.masked_fill(layers[name].weight == 0, -1) for name, found in scores.items()}


def _quota(layers: Layers, spec: PruneSpec, context: Context) -> Quota | None:
    """Tell how much of each layer goes by its sensitivity, None where the step takes no table."""
    table = table_for(spec, context)
    if table is None:
        return None
    free = [name for name in layers if override((name,), spec) is None]
    curves = {group: curve for group, curve in curves_of(table).items() if group[0] in free}
    if missing := [name for name in free if (name,) not in curves]:
        raise NoSensitivity(f"The table lacks the layer {missing[0]!r}.", hint="Analyze this model.")
    totals = {part: layers[part[0]].weight.numel() for part in curves}
    return Quota(totals, {}, curves, dict.fromkeys(curves, MOST_AMOUNT))


def _choose(
    scores: dict[str, torch.Tensor], layers: Layers, spec: PruneSpec, amounts: float | dict[str, float], gone: float
) -> dict[str, torch.Tensor]:
    """Mark the weights that are to be zero: an amount of all, or of each layer its own.

    ``gone`` is the share of the layers' own amounts that is due by now.
    """
    if spec.kept:
        return {name: all_but(found, *spec.kept, layers[name].inputs) for name, found in scores.items()}
    fixed = {name: own * gone for name in scores if (own := override((name,), spec)) is not None}
    if isinstance(amounts, float) and spec.scope == "global" and spec.criterion != "wanda":
        open_ = {name: found for name, found in scores.items() if name not in fixed}
        found = dict(zip(open_, lowest(list(open_.values()), amounts), strict=True)) if open_ else {}
        return found | {name: lowest([scores[name]], amount)[0] for name, amount in fixed.items()}
    each = (amounts if isinstance(amounts, dict) else dict.fromkeys(scores, amounts)) | fixed
    if spec.criterion == "wanda":
        return {name: lowest_of_rows(found, each[name]) for name, found in scores.items()}
    return {name: lowest([found], each[name])[0] for name, found in scores.items()}
