"""Removes units: selects what stays of every weight and rewrites the sizes that counted them."""

from __future__ import annotations

import copy
import operator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from workers.compression.layers import arguments
from workers.compression.lifting import op_name
from workers.compression.network import Network
from workers.compression.pruning.groups import Groups
from workers.compression.pruning.ids import compact
from workers.compression.pruning.movement import PADDED, RESHAPES, SPLITS
from workers.compression.pruning.walk import Walk

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def remove(network: Network, groups: Groups, units: NDArray[np.int64]) -> Network:
    """Give a copy of the network without these units; ``groups`` must be this very network's."""
    dead = torch.from_numpy(np.isin(groups.labels, units))
    walk = groups.walk
    smaller = replace(network, module=_copy_of_the_rest(network.module, walk, dead))
    # A copy of a graph keeps the names of its nodes.
    copies = {node.name: node for node in smaller.module.graph.nodes}
    sizes = _Sizes(dead, {copies[node.name]: ids for node, ids in walk.node_ids.items()})
    for node in smaller.module.graph.nodes:
        if node.op == "call_function":
            _rewrite(smaller.module, node, sizes)
    for part in smaller.module.modules():
        _resize(part)
    smaller.module.recompile()
    return smaller


def _copy_of_the_rest(module: fx.GraphModule, walk: Walk, dead: torch.Tensor) -> fx.GraphModule:
    """Copy the module with what remains of its tensors, never with what goes."""
    lives: dict[str, dict[int, torch.Tensor]] = {}
    for (name, axis), ids in walk.dimensions.items():
        lives.setdefault(name, {})[axis] = ~dead[ids]
    for name, ids in walk.elements.items():
        lives.setdefault(name, {}).update({axis: _alive(ids, axis, dead) for axis in range(ids.dim())})
    known = dict(module.named_parameters()) | dict(module.named_buffers())
    rest = {id(known[name]): _rest_of(known[name], axes) for name, axes in lives.items()}
    return copy.deepcopy(module, rest)


def _rest_of(tensor: torch.Tensor, axes: dict[int, torch.Tensor]) -> torch.Tensor:
    kept = tensor.detach()
    for axis, alive in axes.items():
        if not bool(alive.all()):
            kept = kept.index_select(axis, alive.nonzero().flatten().to(tensor.device))
    if kept.data_ptr() == tensor.data_ptr():
        kept = kept.clone()
    return nn.Parameter(kept, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else kept


def _alive(ids: torch.Tensor, axis: int, dead: torch.Tensor) -> torch.Tensor:
    """Tell for each index of ``axis`` whether anything of it remains."""
    small = compact(ids)
    rows = ~dead[small].movedim(axis, 0).reshape(small.shape[axis], -1)
    return rows.any(dim=1).expand(ids.shape[axis])


class _Sizes:
    """Reads sizes off the ids that remain."""

    def __init__(self, dead: torch.Tensor, ids: dict[fx.Node, Any]) -> None:
        self.dead = dead
        self.ids = ids

    def alive(self, ids: torch.Tensor, axis: int) -> torch.Tensor:
        return _alive(ids, axis, self.dead)

    def of(self, ids: torch.Tensor, axis: int) -> int:
        return int(self.alive(ids, axis).sum())

    def before(self, ids: torch.Tensor, axis: int, index: int) -> int:
        """Count what remains before this index, which may be negative or beyond the end."""
        length = ids.shape[axis]
        index = max(index + length, 0) if index < 0 else min(index, length)
        return int(self.alive(ids, axis)[:index].sum())


def _resize(part: nn.Module) -> None:
    """Bring a module's own numbers in line with its weight."""
    if isinstance(part, CONVOLUTIONS):
        if part.groups > 1 and part.in_channels == part.groups:
            part.groups = part.weight.shape[0] * part.groups // part.out_channels
        part.out_channels, part.in_channels = part.weight.shape[0], part.weight.shape[1] * part.groups
    elif isinstance(part, TRANSPOSED):
        if part.groups > 1 and part.in_channels == part.groups:
            part.groups = part.weight.shape[0]
        part.in_channels, part.out_channels = part.weight.shape[0], part.weight.shape[1] * part.groups
    elif isinstance(part, nn.Linear):
        part.out_features, part.in_features = part.weight.shape
    elif isinstance(part, nn.Embedding):
        part.embedding_dim = part.weight.shape[1]
    elif isinstance(part, _BatchNorm):
        known = part.weight if part.weight is not None else part.running_mean
        part.num_features = len(known) if known is not None else part.num_features


def _rewrite(module: fx.GraphModule, node: fx.Node, sizes: _Sizes) -> None:
    op = op_name(node)
    if op in RESHAPES or op in {"expand", "unflatten"}:
        _rewrite_shape(node, sizes)
    elif op in SPLITS:
        _rewrite_split(node, sizes)
    elif op in {"slice", "select", "narrow"}:
        _rewrite_range(node, op, sizes)
    elif op in {"constant_pad_nd", PADDED}:
        _rewrite_pad(node, sizes)
    elif op.startswith("conv") and "groups" in arguments(node):
        _rewrite_groups(module, node, sizes)


def _set(node: fx.Node, **values: Any) -> None:
    """Give arguments by the names of the operator's schema."""
    schema = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]  # noqa: SLF001
    for name, value in values.items():
        place = schema.index(name)
        if place < len(node.args):
            node.update_arg(place, value)
        else:
            node.update_kwarg(name, value)


def _rewrite_shape(node: fx.Node, sizes: _Sizes) -> None:
    given = arguments(node)
    key = next(key for key in ("size", "shape", "sizes") if key in given)
    ids = sizes.ids[node]
    first = given["dim"] % (ids.dim() - len(given[key]) + 1) if key == "sizes" else 0
    shape = list(given[key])
    for place, size in enumerate(shape):
        left, before = sizes.of(ids, first + place), ids.shape[first + place]
        if left != before and size != -1:
            shape[place] = left if isinstance(size, int) else _scaled(node, size, left, before)
    _set(node, **{key: shape})


def _scaled(node: fx.Node, size: fx.Node, left: int, before: int) -> fx.Node:
    """Shrink a size that is counted at run time: the ids are one row's, and every row holds as many."""
    graph = node.graph
    with graph.inserting_before(node):
        return graph.call_function(operator.floordiv, (graph.call_function(operator.mul, (size, left)), before))


def _rewrite_split(node: fx.Node, sizes: _Sizes) -> None:
    axis = arguments(node)["dim"]
    parts = sizes.ids[node]
    left = [sizes.of(part, axis % part.dim()) for part in parts]
    if left != [part.shape[axis] for part in parts]:
        node.args = (node.args[0], left, axis)
        node.kwargs = {}
        node.target = torch.ops.aten.split_with_sizes.default


def _rewrite_range(node: fx.Node, op: str, sizes: _Sizes) -> None:
    given = arguments(node)
    source = node.args[0]
    assert isinstance(source, fx.Node)
    ids = sizes.ids[source]
    if ids is None:
        return
    axis = given["dim"] % ids.dim()
    if sizes.of(ids, axis) == ids.shape[axis]:
        return
    if op == "select":
        _set(node, index=sizes.before(ids, axis, given["index"]))
        return
    start = sizes.before(ids, axis, given["start"] or 0)
    if op == "narrow":
        _set(node, start=start, length=sizes.of(sizes.ids[node], axis))
    else:
        _set(node, start=start, end=start + sizes.of(sizes.ids[node], axis))


def _rewrite_pad(node: fx.Node, sizes: _Sizes) -> None:
    ids = sizes.ids[node]
    widths = list(arguments(node)[PADDED])
    for place in range(len(widths) // 2):
        axis = ids.dim() - 1 - place
        before, after = widths[2 * place : 2 * place + 2]
        alive = sizes.alive(ids, axis)
        if not bool(alive.all()):
            widths[2 * place] = int(alive[:before].sum())
            widths[2 * place + 1] = int(alive[len(alive) - after :].sum())
    _set(node, **{PADDED: widths})


def _rewrite_groups(module: fx.GraphModule, node: fx.Node, sizes: _Sizes) -> None:
    """Count the groups of a depthwise convolution that stayed an operator."""
    given = arguments(node)
    source, weight = node.args[0], given["weight"]
    if given["groups"] == 1 or not isinstance(source, fx.Node) or weight.op != "get_attr":
        return
    ids = sizes.ids[source]
    tensor = module.get_parameter(str(weight.target))
    axis = ids.dim() - tensor.dim() + 1
    if ids.shape[axis] == given["groups"]:
        _set(node, groups=sizes.of(ids, axis))
