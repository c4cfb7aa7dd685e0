"""Operators that move values, or make them of sizes alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.onnx_import.values import Call, Operator, Result, Size


def _reshape(call: Call) -> Tensor:
    x, wanted = call.tensor(0), call.sizes("shape", 1) or []
    shape = [
        x.shape[axis] if isinstance(size, int) and size == 0 and not call.attribute("allowzero", 0) else size
        for axis, size in enumerate(wanted)
    ]
    if call.frees_batch and shape and x.dim() and _is_one(shape[0]) and not isinstance(x.shape[0], int):
        shape[0] = x.shape[0] if -1 in [each for each in shape if isinstance(each, int)] else -1
    return x.reshape(shape)


def _flatten(call: Call) -> Tensor:
    x, axis = call.tensor(0), int(call.attribute("axis", 1))
    axis = axis % x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return x.flatten(1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _transpose(call: Call) -> Tensor:
    x = call.tensor(0)
    return x.permute(call.attribute("perm", list(reversed(range(x.dim())))))


def _squeeze(call: Call) -> Tensor:
    x, axes = call.tensor(0), call.numbers("axes", 1)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    return x.squeeze(axes[0]) if len(axes) == 1 else x.squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Tensor:
    x, axes = call.tensor(0), call.numbers("axes", 1) or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(call: Call) -> Tensor:
    parts = [call.tensor(place) for place in range(len(call.inputs))]
    axis = int(call.attribute("axis"))
    if call.frees_batch and axis % parts[0].dim():
        rows = next((part.shape[0] for part in parts if not isinstance(part.shape[0], int)), 1)
        parts = [part.expand(rows, *part.shape[1:]) if _is_one(part.shape[0]) else part for part in parts]
    return torch.cat(parts, dim=axis)


def _is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1


def _split(call: Call) -> Result:
    x, axis, sizes = call.tensor(0), int(call.attribute("axis", 0)), call.sizes("split", 1)
    if sizes is not None:
        return x.split(sizes, dim=axis)
    count = len(call.node.outputs)
    return x.split(-(-x.shape[axis] // count), dim=axis)


def _slice(call: Call) -> Tensor:
    x = call.tensor(0)
    starts, ends = call.sizes("starts", 1) or [], call.sizes("ends", 2) or []
    axes = call.numbers("axes", 3) or list(range(len(starts)))
    steps = call.numbers("steps", 4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 0:
            x = _backwards(call, x, axis, start, end, step)
        else:
            x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    return x


def _backwards(call: Call, x: Tensor, axis: int, start: Size, end: Size, step: int) -> Tensor:
    size = x.shape[axis]
    first, last = (each if each >= 0 else each + size for each in (start, end))
    if not (step == -1 and first >= size - 1 and last < 0):
        raise UnsupportedNetwork(f"{call.node.label} goes backwards over a part of a dimension.")
    return x.flip(axis)


def _gather(call: Call) -> Tensor:
    """Pick along one axis: one index is a selection, others an index of it alone."""
    axis, indices = int(call.attribute("axis", 0)), call.value(1)
    if isinstance(indices, np.ndarray) and indices.ndim == 0:
        return call.tensor(0).select(axis, indices.item())
    x, picked = call.tensor(0), call.tensor(1)
    leading = (None,) * (axis % x.dim())
    return torch.ops.aten.index.Tensor(x, [*leading, picked])


def _gather_elements(call: Call) -> Tensor:
    x, axis, indices = call.tensor(0), int(call.attribute("axis", 0)), call.tensor(1)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _gather_nd(call: Call) -> Tensor:
    x, indices = call.tensor(0), call.tensor(1)
    if call.attribute("batch_dims", 0):
        raise UnsupportedNetwork(f"{call.node.label} picks batch by batch (batch_dims).")
    return x[tuple(indices.unbind(-1))]


def _expand(call: Call) -> Tensor:
    x, wanted = call.tensor(0), call.sizes("shape", 1) or []
    rank = max(x.dim(), len(wanted))
    shape: list[Any] = [1] * (rank - len(wanted)) + list(wanted)
    own = [1] * (rank - x.dim()) + list(x.shape)
    return x.expand([mine if _is_one(size) else size for mine, size in zip(own, shape, strict=True)])


def _tile(call: Call) -> Tensor:
    return call.tensor(0).repeat(call.sizes("repeats", 1) or [])


def _filled(call: Call) -> Tensor:
    value = call.attribute("value", np.zeros(1, np.float32)).reshape(-1)[0]
    dtype = torch.from_numpy(np.asarray([value])).dtype
    return torch.full(tuple(call.sizes("shape", 0) or ()), value.item(), dtype=dtype)


def _range(call: Call) -> Tensor:
    start, limit, delta = ((call.sizes("bounds", place) or [0])[0] for place in range(3))
    dtype = torch.float32 if any(isinstance(each, float) for each in (start, limit, delta)) else torch.int64
    return torch.arange(start, limit, delta, dtype=dtype)


def _cast(call: Call) -> Tensor:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(int(call.attribute("to")))
    return call.tensor(0).to(torch.from_numpy(np.zeros(1, dtype)).dtype)


def _depth_to_space(call: Call) -> Tensor:
    x, block = call.tensor(0), int(call.attribute("blocksize"))
    if call.attribute("mode", "DCR") == "CRD":
        return torch.nn.functional.pixel_shuffle(x, block)
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, block, block, channels // block**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(rows, channels // block**2, height * block, width * block)


def _space_to_depth(call: Call) -> Tensor:
    x, block = call.tensor(0), int(call.attribute("blocksize"))
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, channels, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(rows, channels * block**2, height // block, width // block)


def _triangle(call: Call) -> Tensor:
    x, diagonal = call.tensor(0), (call.numbers("k", 1) or [0])[0]
    return x.triu(diagonal) if call.attribute("upper", 1) else x.tril(diagonal)


def _one_hot(call: Call) -> Tensor:
    depth, values = (call.numbers("depth", 1) or [0])[0], call.tensor(2)
    indices, axis = call.tensor(0).to(torch.int64), int(call.attribute("axis", -1))
    hot = torch.nn.functional.one_hot(torch.where(indices < 0, indices + depth, indices), depth)
    return torch.where(hot.movedim(-1, axis) == 1, values[1], values[0])


def _scatter_elements(call: Call) -> Tensor:
    if call.attribute("reduction", "none") != "none":
        raise UnsupportedNetwork(f"{call.node.label} reduces what it scatters.")
    return call.tensor(0).scatter(int(call.attribute("axis", 0)), call.tensor(1), call.tensor(2))


def _scatter_nd(call: Call) -> Tensor:
    if call.attribute("reduction", "none") != "none":
        raise UnsupportedNetwork(f"{call.node.label} reduces what it scatters.")
    places = tuple(call.tensor(1).unbind(-1))
    return call.tensor(0).index_put(places, call.tensor(2))


MOVEMENT: dict[str, Operator] = {
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": lambda call: call.tensor(0),
    "OneHot": _one_hot,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
