"""Operators that only move data: executed on the ids as they stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from workers.compression.pruning.ids import along, squash, varies
from workers.compression.pruning.walk import Call, Ids

RESHAPES = frozenset({"view", "_unsafe_view", "reshape"})
SPLITS = frozenset({"split", "split_with_sizes", "chunk"})
MOVES = RESHAPES | SPLITS | {
    "flatten", "unflatten", "permute", "transpose", "t", "swapaxes", "movedim", "numpy_T", "mT", "slice", "select",
    "narrow", "unbind", "cat", "concat", "stack", "expand", "expand_as", "repeat", "repeat_interleave", "flip", "roll",
    "unfold", "squeeze", "unsqueeze", "contiguous", "clone", "alias", "detach", "detach_copy", "lift_fresh_copy",
    "getitem", "pixel_shuffle", "channel_shuffle",
}  # fmt: skip
PADDED = "pad"


def move(call: Call) -> Ids:
    """Run the operator on ids; freeze first what its arguments could not follow afterwards."""
    if call.op == "getitem":
        return call.walk.ids_of(call.node.args[0])[call.node.args[1]]  # type: ignore[arg-type]
    if _is_stubborn(call):
        return call.unknown()
    if call.op in {"pixel_shuffle", "channel_shuffle"}:
        _tie_shuffled(call)
    if call.op == "expand" and call.space.is_constant(call.ids("self")):
        return _spread(call)
    arguments: Any = fx.node.map_arg(call.node.args, lambda node: _ids_or_value(call, node))
    kwargs: Any = fx.node.map_arg(call.node.kwargs, lambda node: _ids_or_value(call, node))
    # Ids may be spread where the values are not, so that a view of them need not be one.
    target: Any = torch.ops.aten.reshape.default if call.op in RESHAPES else call.node.target
    moved = target(*arguments, **kwargs)
    if isinstance(moved, tuple | list):
        return tuple(squash(part) for part in moved)
    return squash(moved)


def _ids_or_value(call: Call, node: fx.Node) -> Any:
    value = call.walk.env[node]
    return call.walk.ids_of(node) if isinstance(value, torch.Tensor | tuple | list) else value


def _is_stubborn(call: Call) -> bool:
    """Tell whether literals of the call count channels in a way that surgery cannot rewrite."""
    ids = call.tensors()[0]
    if call.op == "slice":
        return bool(call.value("step") != 1 and varies(ids, call.value("dim")))
    if call.op == "roll":
        return any(varies(ids, axis) for axis in call.value("dims") or range(ids.dim()))
    if call.op == "unfold":
        return varies(ids, call.value("dimension"))
    return False


def _tie_shuffled(call: Call) -> None:
    """Keep the counts that a shuffle's literal names: its groups, or the square of its factor."""
    ids = call.ids("self")
    if call.op == "channel_shuffle":
        by_group = ids.reshape(ids.shape[0], call.value("groups"), -1, *ids.shape[2:])
        call.space.join(by_group, by_group[:, :1])
    else:
        square = call.value("upscale_factor") ** 2
        by_pixel = ids.reshape(*ids.shape[:-3], -1, square, *ids.shape[-2:])
        call.space.join(by_pixel, by_pixel.narrow(-3, 0, 1))


def _spread(call: Call) -> torch.Tensor:
    """Give each copy of a fixed value an id that owns no weight, where it is copied along one dimension."""
    shape = call.output.shape
    sizes = (1,) * (len(shape) - call.ids("self").dim()) + tuple(call.ids("self").shape)
    copied = [axis for axis in range(len(shape)) if sizes[axis] != shape[axis]]
    if len(copied) != 1:
        return call.space.constant(shape, f"{call.node.name!r} is fixed")
    return along(call.space.fresh(shape[copied[0]]), copied[0], shape)


def pad(call: Call) -> Ids:
    """Continue channels into a padded border; padded channels get ids that own no weight."""
    ids = call.ids("self")
    widths = call.value(PADDED)
    for place in range(len(widths) // 2):
        axis = ids.dim() - 1 - place
        before, after = widths[2 * place : 2 * place + 2]
        if not varies(ids, axis):
            ids = ids.narrow(axis, 0, 1).expand(
                *ids.shape[:axis], ids.shape[axis] + before + after, *ids.shape[axis + 1 :]
            )
        elif call.value("mode") not in {None, "constant"} or min(before, after) < 0:
            return call.unknown()
        else:
            border = [_border(call, ids, axis, width) for width in (before, after)]
            ids = squash(torch.cat([border[0], ids, border[1]], dim=axis))
    return ids


def _border(call: Call, ids: torch.Tensor, axis: int, width: int) -> torch.Tensor:
    shape = [1] * ids.dim()
    shape[axis] = width
    return call.space.fresh(*shape).expand(*ids.shape[:axis], width, *ids.shape[axis + 1 :])
