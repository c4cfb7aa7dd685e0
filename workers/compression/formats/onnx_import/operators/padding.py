"""What convolutions and pools pad, in torch's terms: from the last dimension on, start and end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.compression.formats.onnx_import.values import Call, Size


def window_padding(
    call: Call, x: Tensor, window: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[Size]:
    """Read explicit pads, or compute those that ``auto_pad`` asks for."""
    rank, mode = len(window), call.attribute("auto_pad", "NOTSET")
    pads: Sequence[Size] = call.attribute("pads", [0] * 2 * rank) if mode == "NOTSET" else [0] * 2 * rank
    if mode.startswith("SAME"):
        total = [_same(*each) for each in zip(x.shape[2:], window, strides, dilations, strict=True)]
        small, large = [each // 2 for each in total], [each - each // 2 for each in total]
        pads = small + large if mode == "SAME_UPPER" else large + small
    return [pads[axis + end * rank] for axis in reversed(range(rank)) for end in range(2)]


def _same(size: Size, window: int, stride: int, dilation: int) -> Size:
    if stride == 1:
        return (window - 1) * dilation
    return torch.sym_max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)


def symmetric_padding(pads: Sequence[Size]) -> list[int] | None:
    """Give the padding of each dimension, first to last, where it is fixed and the same at both ends."""
    pairs = list(zip(pads[::2], pads[1::2], strict=True))
    if not all(isinstance(a, int) and isinstance(b, int) and a == b >= 0 for a, b in pairs):
        return None
    return [int(a) for a, _ in reversed(pairs)]
