"""Operators that compute along dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.onnx_import.values import Call, Operator, Result

SOFTMAX_OF_ONE_AXIS = 13
"""From this operator set on, softmax works along one axis; before, over all from its axis on."""


def _reduced(compute: Callable[[Tensor, Any, bool], Tensor]) -> Operator:
    def run(call: Call) -> Tensor:
        x, axes = call.tensor(0), call.numbers("axes", 1)
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return x
        return compute(x, axes or list(range(x.dim())), bool(call.attribute("keepdims", 1)))

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001 - torch's own order
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _best(compute: Callable[..., Tensor]) -> Operator:
    def run(call: Call) -> Tensor:
        if call.attribute("select_last_index", 0):
            raise UnsupportedNetwork(f"{call.node.label} picks the last of equals (select_last_index).")
        return compute(call.tensor(0), int(call.attribute("axis", 0)), bool(call.attribute("keepdims", 1)))

    return run


def _along(compute: Callable[[Tensor, int], Tensor]) -> Operator:
    def run(call: Call) -> Tensor:
        x = call.tensor(0)
        if call.opset >= SOFTMAX_OF_ONE_AXIS:
            return compute(x, int(call.attribute("axis", -1)))
        axis = int(call.attribute("axis", 1)) % x.dim()
        if axis == x.dim() - 1 or all(isinstance(size, int) and size == 1 for size in x.shape[axis + 1 :]):
            return compute(x, axis)
        return compute(x.reshape(*x.shape[:axis], math.prod(x.shape[axis:])), -1).reshape(x.shape)

    return run


def _top(call: Call) -> Result:
    count = (call.numbers("k", 1) or [1])[0]
    found = torch.topk(
        call.tensor(0), count, int(call.attribute("axis", -1)), largest=bool(call.attribute("largest", 1))
    )
    return found.values, found.indices


def _sum_so_far(call: Call) -> Tensor:
    if call.attribute("exclusive", 0) or call.attribute("reverse", 0):
        raise UnsupportedNetwork(f"{call.node.label} sums backwards or without the value itself.")
    return torch.cumsum(call.tensor(0), (call.numbers("axis", 1) or [0])[0])


def _unit(call: Call) -> Tensor:
    order, axis = float(call.attribute("p", 2)), int(call.attribute("axis", -1))
    x = call.tensor(0)
    return x / torch.linalg.vector_norm(x, order, axis, keepdim=True)


REDUCTIONS: dict[str, Operator] = {
    "ArgMax": _best(torch.argmax),
    "ArgMin": _best(torch.argmin),
    "CumSum": _sum_so_far,
    "LogSoftmax": _along(torch.log_softmax),
    "LpNormalization": _unit,
    "ReduceL1": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 1, axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: torch.sum(x * x, axes, keep)),
    "Softmax": _along(torch.softmax),
    "TopK": _top,
}
