"""Ids where tensors meet: element by element, and in matrix products."""

from __future__ import annotations

import torch

from workers.compression.pruning.ids import IdSpace, varies


def meet(space: IdSpace, operands: list[torch.Tensor], shape: torch.Size) -> torch.Tensor:
    """Join what stands at the same place.

    An operand spread over a dimension that holds others' channels owns none of them: it is
    frozen, since the dimension of size 1 must stay. So are its other dimensions, and what
    meets it can lose channels along the one alone: heads under one rotation, but no part of one.
    """
    spread = [operand.expand(shape) for operand in operands]
    channel_axes = [axis for axis in range(len(shape)) if any(varies(ids, axis) for ids in spread)]
    joined = []
    fixed: set[int] = set()
    for operand, ids in zip(operands, spread, strict=True):
        sizes = (1,) * (len(shape) - operand.dim()) + tuple(operand.shape)
        if any(sizes[axis] == 1 and shape[axis] > 1 for axis in channel_axes):
            space.freeze(operand, "one value of its channels is spread over others'")
            fixed.update(axis for axis in channel_axes if sizes[axis] > 1)
        else:
            joined.append(ids)
    if not joined:
        return space.constant(shape, "two sets of channels are spread over each other")
    for ids in joined[1:]:
        space.join(joined[0], ids)
    for axis in fixed:
        space.join(joined[0], joined[0].narrow(axis, 0, 1))
    return joined[0]


def product(space: IdSpace, left: torch.Tensor, right: torch.Tensor, name: str) -> torch.Tensor:
    """Join the contracted dimension of [..., I, K] · [..., K, J]; give the ids of [..., I, J].

    Where both sides hold ids in a batch dimension, that is heads: all that is in one stays together.
    """
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = torch.Size((*batch, left.shape[-2], right.shape[-1]))
    left = left.expand(*batch, *left.shape[-2:])
    right = right.expand(*batch, *right.shape[-2:])
    if all(any(varies(side, axis) for axis in range(len(batch))) for side in (left, right)):
        head = left[..., :1, :1]
        space.join(left, head)
        space.join(right, head)
        return head.expand(shape)
    rows, columns = _contract(space, _one_batch(space, left), _one_batch(space, right), name)
    if rows is not None and columns is not None:
        for ids in (rows, columns):
            space.freeze(ids, f"a product ({name}) of two sets of channels")
    elif rows is not None:
        return rows.expand(shape)
    elif columns is not None:
        return columns.expand(shape)
    return space.constant(shape, f"a product ({name}) of values without channels")


def _one_batch(space: IdSpace, ids: torch.Tensor) -> torch.Tensor:
    first = ids
    for _ in range(ids.dim() - 2):
        first = first[0]
    space.join(ids, first)
    return first


def _contract(
    space: IdSpace, left: torch.Tensor, right: torch.Tensor, name: str
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Join K of [I, K] and [K, J]; give the ids of I and J where they hold any."""
    if varies(left, 0) and varies(left, 1):
        space.join(left, left[:1])
        left = left[:1].expand(left.shape)
    if varies(right, 0) and varies(right, 1):
        space.join(right, right[:, :1])
        right = right[:, :1].expand(right.shape)
    inner = varies(left, 1), varies(right, 0)
    if all(inner):
        space.join(left[0], right[:, 0])
    elif any(inner):
        space.freeze(left if inner[0] else right, f"a product ({name}) sums its channels against a fixed size")
    return left[:, :1] if varies(left, 0) else None, right[:1] if varies(right, 1) else None
