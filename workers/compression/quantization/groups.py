"""Weights in groups of a few bits: scales, zero points, rounding and the order in which bytes hold them.

A row of weights is cut into groups of ``group_size`` inputs, the last one filled up with zeros; each has a scale and,
unless it is symmetric, a zero point. What is stored is ``q = clamp(round(w/s) + z, 0, 2^bits − 1)``, rounding half to
even, and what is computed with is ``ŵ = s·(q − z)``. The bytes are those of ONNX Runtime's ``MatMulNBits``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SHRINKINGS = tuple(1 - step / 16 for step in range(6))
"""Shares of a group's whole range that are tried: cutting off its tail may leave the rest a finer scale."""


@dataclass(frozen=True)
class Groups:
    """Integers (rows, groups, group size) from 0 to 2^bits − 1 with the scale and zero point of each (rows, groups).

    ``saturated`` is the share of weights that lay beyond what the integers reach.
    """

    integers: Tensor
    scales: Tensor
    zero_points: Tensor
    saturated: float


@dataclass(frozen=True)
class Ranges:
    """Scale and zero point of each group, and which of ``SHRINKINGS`` gave them: (rows, groups) each."""

    scales: Tensor
    zero_points: Tensor
    shares: Tensor


def quantize_groups(weight: Tensor, bits: int, group_size: int, *, symmetric: bool) -> Groups:
    """Quantize a weight of (rows, inputs), each group by the range that fits it best."""
    return round_groups(weight, find_ranges(weight, bits, group_size, symmetric=symmetric), bits, group_size)


def find_ranges(weight: Tensor, bits: int, group_size: int, *, symmetric: bool) -> Ranges:
    """Choose for each group the one of ``SHRINKINGS`` with the least squared error.

    A symmetric group reaches furthest on the side of its largest weight: of four bits, −8 stands for that one.
    """
    values = _cut(weight.float(), group_size)
    best: Ranges | None = None
    least = torch.empty(())
    for share in SHRINKINGS:
        tried = _ranges(values, bits, torch.full(values.shape[:2], share, device=values.device), symmetric=symmetric)
        error = (values - _restored(values, tried, bits)).square().sum(-1)
        if best is None:
            best, least = tried, error
            continue
        better = error < least
        least = torch.where(better, error, least)
        best = Ranges(
            torch.where(better, tried.scales, best.scales),
            torch.where(better, tried.zero_points, best.zero_points),
            torch.where(better, tried.shares, best.shares),
        )
    assert best is not None
    return best


def follow_ranges(weight: Tensor, ranges: Ranges, bits: int, group_size: int, *, symmetric: bool) -> Ranges:
    """Give the ranges of a weight that has moved, at the shares found before."""
    return _ranges(_cut(weight, group_size), bits, ranges.shares, symmetric=symmetric)


def round_groups(weight: Tensor, ranges: Ranges, bits: int, group_size: int) -> Groups:
    """Round a weight of (rows, inputs) to the integers of given ranges."""
    unbounded = _place(_cut(weight.float(), group_size), ranges)
    integers = unbounded.clamp(0, 2**bits - 1)
    saturated = float((unbounded != integers).double().sum()) / weight.numel()
    return Groups(integers.to(torch.uint8), ranges.scales, ranges.zero_points.to(torch.uint8), saturated)


def restore_groups(weight: Tensor, ranges: Ranges, bits: int, group_size: int) -> Tensor:
    """Give what a weight of (rows, inputs) is worth once it has been rounded, without its integers."""
    return _restored(_cut(weight.float(), group_size), ranges, bits).flatten(-2)[..., : weight.shape[1]]


def dequantize_groups(integers: Tensor, scales: Tensor, zero_points: Tensor | int, inputs: int) -> Tensor:
    """Give ŵ of (rows, inputs), without what the last group was filled up with."""
    shift = zero_points.float().unsqueeze(-1) if isinstance(zero_points, Tensor) else float(zero_points)
    values = (integers.float() - shift) * scales.unsqueeze(-1)
    return values.flatten(-2)[..., :inputs]


def pack(integers: Tensor, bits: int) -> Tensor:
    """Put integers of four bits two to a byte along the last dimension, the first of them in the low half."""
    if bits == 8:
        return integers
    even = F.pad(integers, (0, integers.shape[-1] % 2))
    return even[..., 0::2] | (even[..., 1::2] << 4)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Undo :func:`pack`; a row that was odd comes back with a zero at its end."""
    if bits == 8:
        return packed
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def _cut(weight: Tensor, group_size: int) -> Tensor:
    rows, inputs = weight.shape
    return F.pad(weight, (0, -inputs % group_size)).reshape(rows, -1, group_size)


def _ranges(values: Tensor, bits: int, shares: Tensor, *, symmetric: bool) -> Ranges:
    low, high = values.amin(-1) * shares, values.amax(-1) * shares
    if symmetric:
        middle = 2 ** (bits - 1)
        scales = _usable(torch.where(high > -low, high, low) / -middle)
        return Ranges(scales, torch.full_like(scales, middle), shares)
    # Zero must be among the values that are represented exactly.
    low, high = low.clamp(max=0), high.clamp(min=0)
    scales = _usable((high - low) / (2**bits - 1))
    return Ranges(scales, torch.round(-low / scales).clamp(0, 2**bits - 1), shares)


def _usable(scales: Tensor) -> Tensor:
    """Replace scales of groups that are zero, or too near to it to divide by."""
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(scales.abs() < tiny, torch.ones_like(scales), scales)


def _place(values: Tensor, ranges: Ranges) -> Tensor:
    return torch.round(values / ranges.scales.unsqueeze(-1)) + ranges.zero_points.unsqueeze(-1)


def _restored(values: Tensor, ranges: Ranges, bits: int) -> Tensor:
    integers = _place(values, ranges).clamp(0, 2**bits - 1)
    return (integers - ranges.zero_points.unsqueeze(-1)) * ranges.scales.unsqueeze(-1)
