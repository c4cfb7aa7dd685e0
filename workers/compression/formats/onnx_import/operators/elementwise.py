"""Operators that compute value by value, and activations under the names that torch has for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.compression.formats.onnx_import.values import Call, Operator


def _unary(compute: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call: compute(call.tensor(0))


def _binary(compute: Callable[[Any, Any], Tensor]) -> Operator:
    def run(call: Call) -> Tensor:
        left, right = call.operand(0), call.operand(1)
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            left = call.tensor(0)
        return compute(left, right)

    return run


def _comparison(compute: Callable[[Any, Any], Tensor]) -> Operator:
    return lambda call: compute(call.tensor(0), call.operand(1))


def _folded(compute: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(call: Call) -> Tensor:
        result = call.tensor(0)
        for place in range(1, len(call.inputs)):
            result = compute(result, call.tensor(place))
        return result

    return run


def _divide(left: Any, right: Any) -> Tensor:
    given = left if isinstance(left, Tensor) else right
    if given.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def _power(left: Any, right: Any) -> Tensor:
    result = torch.pow(left, right)
    return result.to(left.dtype) if isinstance(left, Tensor) else result


def _remainder(call: Call) -> Tensor:
    compute = torch.fmod if call.attribute("fmod", 0) else torch.remainder
    return compute(call.tensor(0), call.operand(1))


def _clip(call: Call) -> Tensor:
    x = call.tensor(0)
    bounds = [_bound(call, name, place) for place, name in ((1, "min"), (2, "max"))]
    if any(isinstance(bound, Tensor) for bound in bounds):
        low, high = (None if bound is None else torch.as_tensor(bound) for bound in bounds)
        return torch.clamp(x, low, high)
    low, high = bounds
    if low == 0 and high == 6:
        return F.relu6(x)
    if low == 0 and high is None:
        return F.relu(x)
    return x if low is high is None else torch.clamp(x, low, high)


def _bound(call: Call, name: str, place: int) -> Any:
    if name in call.node.attributes:
        bound = call.attribute(name)
    elif call.given(place):
        bound = call.operand(place)
    else:
        return None
    largest = torch.finfo(torch.float32).max
    return None if isinstance(bound, float) and abs(bound) >= largest else bound


def _leaky(call: Call) -> Tensor:
    return F.leaky_relu(call.tensor(0), _short(call.attribute("alpha", 0.01)))


def _elu(call: Call) -> Tensor:
    return F.elu(call.tensor(0), _short(call.attribute("alpha", 1.0)))


def _celu(call: Call) -> Tensor:
    return F.celu(call.tensor(0), _short(call.attribute("alpha", 1.0)))


def _selu(call: Call) -> Tensor:
    alpha, gamma = call.attribute("alpha", 1.6732632423543772), call.attribute("gamma", 1.0507009873554805)
    if math.isclose(alpha, 1.6732632423543772, rel_tol=1e-5) and math.isclose(gamma, 1.0507009873554805, rel_tol=1e-5):
        return F.selu(call.tensor(0))
    return gamma * F.elu(call.tensor(0), alpha)


def _hard_sigmoid(call: Call) -> Tensor:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-4) and beta == 0.5:
        return F.hardsigmoid(call.tensor(0))
    return torch.clamp(call.tensor(0) * _short(alpha) + _short(beta), 0.0, 1.0)


def _gelu(call: Call) -> Tensor:
    return F.gelu(call.tensor(0), approximate=call.attribute("approximate", "none"))


def _slope(call: Call) -> Tensor:
    """PRelu: the rewriting makes vectors of slopes that stand one a channel; others are spelled out."""
    x, slope = call.tensor(0), call.tensor(1)
    if slope.dim() == 1 and (slope.shape[0] == 1 or (x.dim() > 1 and slope.shape[0] == x.shape[1])):
        return F.prelu(x, slope)
    return torch.where(x < 0, x * slope, x)


def _where(call: Call) -> Tensor:
    left, right = call.operand(1), call.operand(2)
    if not isinstance(left, Tensor) and not isinstance(right, Tensor):
        left = call.tensor(1)
    return torch.where(call.tensor(0), left, right)


def _thresholded(call: Call) -> Tensor:
    return F.threshold(call.tensor(0), _short(call.attribute("alpha", 1.0)), 0.0)


def _shrink(call: Call) -> Tensor:
    x, limit, bias = call.tensor(0), _short(call.attribute("lambd", 0.5)), _short(call.attribute("bias", 0.0))
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


def _short(number: float) -> float:
    """Take the shortest number that is this float32, as an attribute was written."""
    return float(f"{number:.7g}")


ELEMENTWISE: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(lambda a, b: a + b),
    "And": _folded(torch.logical_and),
    "Ceil": _unary(torch.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _binary(_divide),
    "Elu": _elu,
    "Equal": _comparison(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _comparison(torch.gt),
    "GreaterOrEqual": _comparison(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "IsInf": _unary(torch.isinf),
    "IsNaN": _unary(torch.isnan),
    "LeakyRelu": _leaky,
    "Less": _comparison(torch.lt),
    "LessOrEqual": _comparison(torch.le),
    "Log": _unary(torch.log),
    "Max": _folded(torch.maximum),
    "Min": _folded(torch.minimum),
    "Mish": _unary(F.mish),
    "Mod": _remainder,
    "Mul": _binary(lambda a, b: a * b),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _folded(torch.logical_or),
    "PRelu": _slope,
    "Pow": _binary(_power),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(F.relu),
    "Round": _unary(torch.round),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Silu": _unary(F.silu),
    "Sin": _unary(torch.sin),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(lambda a, b: a - b),
    "Sum": _folded(torch.add),
    "Tan": _unary(torch.tan),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": _thresholded,
    "Where": _where,
    "Xor": _folded(torch.logical_xor),
}
