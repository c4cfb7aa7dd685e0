"""Pooling, padding and resizing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.onnx_import.operators.padding import symmetric_padding, window_padding
from workers.compression.formats.onnx_import.values import Call, Operator, Size

_MAX_POOLS: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN_POOLS: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_GLOBAL_MEANS: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _max_pool(call: Call) -> Tensor:
    x, window = call.tensor(0), call.attribute("kernel_shape")
    rank = len(window)
    if len([name for name in call.node.outputs if name]) > 1:
        raise UnsupportedNetwork(f"{call.node.label} gives out the places of its maxima.")
    strides, dilations = call.attribute("strides", [1] * rank), call.attribute("dilations", [1] * rank)
    pads = window_padding(call, x, window, strides, dilations)
    padding = symmetric_padding(pads)
    if padding is None or any(2 * pad > size for pad, size in zip(padding, window, strict=True)):
        x, padding = F.pad(x, pads, value=-math.inf), [0] * rank
    ceil = bool(call.attribute("ceil_mode", 0))
    return _MAX_POOLS[rank](x, window, strides, padding, dilations, ceil)


def _mean_pool(call: Call) -> Tensor:
    x, window = call.tensor(0), call.attribute("kernel_shape")
    rank = len(window)
    strides = call.attribute("strides", [1] * rank)
    if any(each != 1 for each in call.attribute("dilations", [1] * rank)):
        raise UnsupportedNetwork(f"{call.node.label} has dilations.")
    pads = window_padding(call, x, window, strides, [1] * rank)
    padding, pool = symmetric_padding(pads), _MEAN_POOLS[rank]
    ceil, counts = bool(call.attribute("ceil_mode", 0)), bool(call.attribute("count_include_pad", 0))
    if padding is not None and all(2 * pad <= size for pad, size in zip(padding, window, strict=True)):
        return pool(x, window, strides, padding, ceil, counts)
    mean = pool(F.pad(x, pads), window, strides, 0, ceil)
    if counts:
        return mean
    inside = F.pad(torch.ones_like(x[:1, :1]), pads)
    return mean / pool(inside, window, strides, 0, ceil)


def _global_mean(call: Call) -> Tensor:
    x = call.tensor(0)
    return _GLOBAL_MEANS[x.dim() - 2](x, 1)


def _global_max(call: Call) -> Tensor:
    x = call.tensor(0)
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def _pad(call: Call) -> Tensor:
    x, pads = call.tensor(0), call.sizes("pads", 1) or []
    axes = call.numbers("axes", 3) or list(range(x.dim()))
    mode = _PAD_MODES[call.attribute("mode", "constant")]
    both: dict[int, tuple[Size, Size]] = dict.fromkeys(range(x.dim()), (0, 0))
    for place, axis in enumerate(axes):
        both[axis % x.dim()] = pads[place], pads[place + len(axes)]
    widths = [width for axis in reversed(range(x.dim())) for width in both[axis]]
    if mode == "constant":
        while len(widths) > 2 and widths[-2:] == [0, 0]:
            widths = widths[:-2]
        value = call.attribute("value", 0.0) if not call.given(2) else call.operand(2)
        return F.pad(x, widths, value=value)
    return F.pad(x, widths[: 2 * (x.dim() - 2)], mode=mode)


def _resize(call: Call) -> Tensor:
    """Resize the spatial dimensions as torch does; what torch does otherwise is found when outputs are compared."""
    x, rank = call.tensor(0), call.tensor(0).dim() - 2
    old = call.node.op == "Upsample" or call.opset < 11
    scales = call.sizes("scales", 1 if old else 2) or None
    sizes = None if old else call.sizes("sizes", 3) or None
    if call.attribute("axes") is not None or call.attribute("antialias", 0):
        raise UnsupportedNetwork(f"{call.node.label} resizes along chosen axes, or with antialiasing.")
    coordinates = "asymmetric" if old else call.attribute("coordinate_transformation_mode", "half_pixel")
    mode = call.attribute("mode", "nearest")
    target: dict[str, Any] = (
        {"size": sizes[2:]} if sizes is not None else {"scale_factor": [float(scale) for scale in (scales or [])[2:]]}
    )
    if mode == "nearest":
        return F.interpolate(x, mode=_nearest(call, coordinates, target), **target)
    align = coordinates == "align_corners"
    if mode == "cubic" and rank != 2:
        raise UnsupportedNetwork(f"{call.node.label} resizes {rank} dimensions by cubic curves.")
    return F.interpolate(x, mode="bicubic" if mode == "cubic" else _LINEAR[rank], align_corners=align, **target)


def _nearest(call: Call, coordinates: str, target: dict[str, Any]) -> str:
    """Choose between rounding the corner of a pixel and its middle, which are the same at whole scales."""
    whole = all(float(scale).is_integer() for scale in target.get("scale_factor", []))
    if coordinates == "asymmetric" or (whole and "size" not in target):
        return "nearest"
    return "nearest" if call.attribute("nearest_mode") == "floor" else "nearest-exact"


SPATIAL: dict[str, Operator] = {
    "AveragePool": _mean_pool,
    "GlobalAveragePool": _global_mean,
    "GlobalMaxPool": _global_max,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
