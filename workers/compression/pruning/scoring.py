"""Scores the units of a network by the criterion that a step asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from app.domain.errors import DatasetMismatch
from workers.compression.inference import first_output, fixed_batch
from workers.compression.network import Network
from workers.compression.pruning.groups import Groups
from workers.compression.pruning.importance import (
    MAGNITUDES,
    Scores,
    as_filters,
    bn_scale,
    pooled,
    random,
    relative,
    score_units,
    taylor,
)
from workers.compression.pruning.selection import Labels, Part, joined
from workers.compression.step import Context

TAYLOR_ROWS, TAYLOR_BATCH = 1024, 64
UNSCALED = "no batch norm scales its channels, which bn_scale needs"


def tensor_of(network: Network, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    tensor: torch.Tensor = getattr(network.module.get_submodule(owner), leaf)
    return tensor


def scorable(network: Network, groups: Groups, criterion: str) -> Labels:
    """List the units that the criterion can judge: for ``bn_scale`` those that a batch norm scales, else all."""
    if criterion != "bn_scale":
        return groups.units
    scaled = [labels for _, labels in _scales(network, groups)]
    return groups.units[np.isin(groups.units, joined(scaled))]


def score_pools(
    network: Network, groups: Groups, found: dict[Part, Labels], criterion: str, context: Context
) -> dict[int, float]:
    """Score every unit of these pools."""
    units = np.sort(joined(found.values()))
    return dict(zip(units.tolist(), score(network, groups, units, criterion, context).tolist(), strict=True))


def score(network: Network, groups: Groups, units: Labels, criterion: str, context: Context) -> Scores:
    """Score each of ``units``; the least important score lowest.

    Raises:
        DatasetMismatch: ``taylor`` finds no train rows.
    """
    if criterion == "random":
        return random(len(units), context.seed)
    if criterion == "bn_scale":
        return score_units(
            units, ((labels, relative(bn_scale(scales.detach()))) for scales, labels in _scales(network, groups))
        )
    if criterion == "taylor":
        found = _taylor_scores(network, groups, context)
        return score_units(units, ((p.labels, relative(found[p.weight])) for p in groups.producers))
    return score_units(units, _magnitudes(network, groups, MAGNITUDES[criterion]))


def _magnitudes(
    network: Network, groups: Groups, magnitude: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[tuple[Labels, Scores]]:
    """Score what a unit owns, tensor by tensor: the filters that make it, their scales, the weights that read it.

    A filter right before a batch norm counts by the norm's scale alone, for the norm divides by the filter's own. Each
    tensor counts once, however many of its indices the unit holds: a linear layer behind a flattened map has one for
    each position.
    """
    normed = _normed(network)
    made = [(p.weight, p.axis, p.labels) for p in groups.producers if p.layer not in normed]
    read = [
        (name, axis, groups.labels[ids.numpy()])
        for (name, axis), ids in groups.walk.dimensions.items()
        if groups.walk.producers.get(name) != axis and axis < 2 and _is_weighted(network, name)
    ]
    for name, axis, labels in [*made, *read]:
        yield pooled(labels, relative(magnitude(as_filters(tensor_of(network, name), axis))))
    for scales, labels in _scales(network, groups):
        yield pooled(labels, relative(bn_scale(scales.detach())))


def _normed(network: Network) -> set[str]:
    """Name the layers whose every output goes into a batch norm that scales it anew."""
    return {
        str(node.target)
        for node in network.module.graph.find_nodes(op="call_module")
        if node.users and all(_is_scaling(network, user) for user in node.users)
    }


def _is_scaling(network: Network, node: fx.Node) -> bool:
    part = network.module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return isinstance(part, _BatchNorm) and part.weight is not None


def _is_weighted(network: Network, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf == "weight" and isinstance(network.module.get_submodule(owner), _ConvNd | nn.Linear)


def _scales(network: Network, groups: Groups) -> Iterator[tuple[torch.Tensor, Labels]]:
    """Give the scales of each batch norm with the units of its channels."""
    for name, part in network.module.named_modules():
        ids = groups.walk.dimensions.get((f"{name}.weight", 0))
        if isinstance(part, _BatchNorm) and part.weight is not None and ids is not None:
            yield part.weight, groups.labels[ids.numpy()]


def _taylor_scores(network: Network, groups: Groups, context: Context) -> dict[str, torch.Tensor]:
    """Average the first-order change of the loss over seeded batches of train rows, by weight.

    The network stays in eval mode: under the statistics of a batch, batch norm makes the loss
    indifferent to the scale of a filter, and the sum over its weights would vanish.
    """
    copy = network.clone()
    module = copy.module.to(context.device).requires_grad_(requires_grad=True)
    weights = {p.weight: (tensor_of(copy, p.weight), p.axis) for p in groups.producers}
    scores = {name: torch.zeros(weight.shape[axis], dtype=torch.double) for name, (weight, axis) in weights.items()}
    for inputs, labels in _batches(network, context):
        module.zero_grad(set_to_none=True)
        logits = first_output(module(*(value.to(context.device) for value in inputs)))
        context.task.loss(logits, labels.to(context.device)).backward()
        for name, (weight, axis) in weights.items():
            if weight.grad is not None:
                scores[name] += taylor(as_filters(weight, axis), as_filters(weight.grad, axis)).cpu()
    return scores


def _batches(network: Network, context: Context) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """Give up to ``TAYLOR_ROWS`` rows of train in an order drawn by the seed; where the batch is fixed, full ones."""
    rows = np.random.default_rng(context.seed).permutation(context.data.rows("train"))[:TAYLOR_ROWS]
    if not len(rows):  # of a train split of one row, which validation has
        raise DatasetMismatch("the data set has no train rows, which taylor takes gradients on")
    fixed = fixed_batch(network.signature)
    size = fixed or TAYLOR_BATCH
    for start in range(0, len(rows), size):
        picked = rows[start : start + size]
        yield context.data.gather("train", np.resize(picked, fixed) if fixed else picked)
