"""Arithmetic on sizes: numpy moves them, Python and ``SymInt`` compute with them, and no tensor comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch

from workers.compression.formats.onnx_import.graph import Array
from workers.compression.formats.onnx_import.values import Call, Table, on_host

SizesOperator = Callable[[Call], Array | None]
MAX_ELEMENTS = 4096
"""Shapes are short: what is longer is computed as a tensor."""


def is_sizes(call: Call) -> bool:
    """Tell whether all inputs are known without running the network, and few."""
    arrays = [value for value in call.inputs if value is not None]
    return bool(arrays) and all(isinstance(value, np.ndarray) and value.size <= MAX_ELEMENTS for value in arrays)


def _host(call: Call, place: int) -> Array:
    value = call.value(place)
    assert isinstance(value, np.ndarray)
    return value


def _elementwise(compute: Callable[..., Any], inputs: int = 2) -> SizesOperator:
    """Apply a function of Python numbers; constants keep their dtype."""
    ufunc = np.frompyfunc(compute, inputs, 1)

    def run(call: Call) -> Array:
        arrays = [_host(call, place) for place in range(len(call.inputs))]
        result = arrays[0].astype(object)
        for other in arrays[1:]:
            result = ufunc(result, other.astype(object))
        if len(arrays) == 1:
            result = ufunc(result)
        return _typed(on_host(result), arrays)

    return run


def _typed(result: Array, arrays: list[Array]) -> Array:
    """Give constants computed from constants their dtype again."""
    if any(array.dtype == object for array in arrays):
        return result
    if result.size and all(isinstance(value, bool) for value in result.reshape(-1)):
        return result.astype(bool)
    return result.astype(arrays[-1].dtype)


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat):
        return a / b
    if isinstance(a, int) and isinstance(b, int):
        return int(math.copysign(1, a * b)) * (abs(a) // abs(b)) if b else 0
    return a // b


def _root(a: Any) -> Any:
    return torch.sym_sqrt(a) if isinstance(a, torch.SymInt | torch.SymFloat) else math.sqrt(a)


def _floor(a: Any) -> Any:
    return a if isinstance(a, int | torch.SymInt) else torch.sym_float(math.floor(a))


def _ceil(a: Any) -> Any:
    return a if isinstance(a, int | torch.SymInt) else torch.sym_float(math.ceil(a))


def _cast(call: Call) -> Array:
    array, kind = _host(call, 0), int(call.attribute("to"))
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if array.dtype != object:
        return array.astype(dtype)
    convert: Callable[[Any], Any] = {"f": torch.sym_float, "b": bool}.get(dtype.kind, _integer)
    return on_host(np.frompyfunc(convert, 1, 1)(array))


def _integer(number: Any) -> Any:
    if isinstance(number, torch.SymFloat):
        return torch.sym_int(number)
    return number if isinstance(number, torch.SymInt) else int(number)


def _concat(call: Call) -> Array:
    arrays = [_host(call, place) for place in range(len(call.inputs))]
    if any(array.dtype == object for array in arrays):
        arrays = [array.astype(object) for array in arrays]
    return np.concatenate(arrays, axis=int(call.attribute("axis")))


def _gather(call: Call) -> Array:
    indices = call.numbers("", 1) or []
    picked = np.array(indices, dtype=np.int64).reshape(_host(call, 1).shape)
    return on_host(np.take(_host(call, 0), picked, axis=int(call.attribute("axis", 0))))


def _slice(call: Call) -> Array | None:
    array = _host(call, 0)
    starts, ends = call.sizes("starts", 1) or [], call.sizes("ends", 2) or []
    if any(isinstance(each, torch.SymInt) for each in (*starts, *ends)):
        return None
    axes = call.numbers("axes", 3) or list(range(len(starts)))
    steps = call.numbers("steps", 4) or [1] * len(starts)
    cut: list[Any] = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut[axis] = slice(int(start), None if step < 0 and int(end) < -array.shape[axis] else int(end), step)
    return array[tuple(cut)]


def _squeeze(call: Call) -> Array:
    axes = call.numbers("axes", 1)
    return np.squeeze(_host(call, 0), axis=None if axes is None else tuple(axes))


def _unsqueeze(call: Call) -> Array:
    return np.expand_dims(_host(call, 0), tuple(call.numbers("axes", 1) or ()))


def _transpose(call: Call) -> Array:
    return np.transpose(_host(call, 0), call.attribute("perm"))


def _reshape(call: Call) -> Array:
    array = _host(call, 0)
    shape = [array.shape[axis] if size == 0 else size for axis, size in enumerate(call.numbers("shape", 1) or [])]
    return array.reshape(shape)


def _range(call: Call) -> Array | None:
    start, limit, delta = (_host(call, place).reshape(-1)[0] for place in range(3))
    if any(isinstance(each, torch.SymInt | torch.SymFloat | float | np.floating) for each in (start, limit, delta)):
        return None
    if abs(int(limit) - int(start)) > MAX_ELEMENTS:
        return None
    return np.arange(int(start), int(limit), int(delta), dtype=np.int64)


def _filled(call: Call) -> Array | None:
    shape = call.sizes("", 0) or []
    value = call.attribute("value", np.zeros(1, np.float32))
    if any(isinstance(size, torch.SymInt) for size in shape) or math.prod(map(int, shape)) > MAX_ELEMENTS:
        return None
    return np.full([int(size) for size in shape], value.reshape(-1)[0], dtype=value.dtype)


def _expand(call: Call) -> Array | None:
    wanted = call.sizes("shape", 1) or []
    if any(isinstance(size, torch.SymInt) for size in wanted):
        return None
    shape = np.broadcast_shapes(_host(call, 0).shape, tuple(int(size) for size in wanted))
    return np.broadcast_to(_host(call, 0), shape) if math.prod(shape) <= MAX_ELEMENTS else None


def _reduced(fold: Callable[[Any, Any], Any]) -> SizesOperator:
    def run(call: Call) -> Array | None:
        array, axes = _host(call, 0), call.numbers("axes", 1)
        if array.ndim != 1 or axes not in (None, [0], [-1]):
            return None
        result = array[0].item() if array.dtype != object else array[0]
        for value in array[1:]:
            result = fold(result, value if array.dtype == object else value.item())
        reduced = _typed(on_host(result), [array])
        return reduced.reshape(1) if call.attribute("keepdims", 1) else reduced

    return run


def _where(call: Call) -> Array:
    picked = np.frompyfunc(lambda which, a, b: a if which else b, 3, 1)
    arrays = [_host(call, place) for place in range(3)]
    return _typed(on_host(picked(*(array.astype(object) for array in arrays))), arrays[1:])


def _shape(call: Call) -> Array:
    value = call.value(0)
    whole = np.empty(len(value.shape), dtype=object)
    whole[:] = list(value.shape)
    return whole[call.attribute("start", 0) : call.attribute("end")]


def _count(call: Call) -> Array:
    return on_host(math.prod(call.value(0).shape))


OF_SHAPES: Table = {"Shape": _shape, "Size": _count}
"""What makes sizes of tensors."""

SIZES: dict[str, SizesOperator] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_divide),
    "Mod": _elementwise(lambda a, b: a % b),
    "Pow": _elementwise(lambda a, b: a**b),
    "Min": _elementwise(torch.sym_min),
    "Max": _elementwise(torch.sym_max),
    "Neg": _elementwise(lambda a: -a, inputs=1),
    "Abs": _elementwise(abs, inputs=1),
    "Sqrt": _elementwise(_root, inputs=1),
    "Floor": _elementwise(_floor, inputs=1),
    "Ceil": _elementwise(_ceil, inputs=1),
    "Equal": _elementwise(lambda a, b: bool(a == b)),
    "Less": _elementwise(lambda a, b: bool(a < b)),
    "LessOrEqual": _elementwise(lambda a, b: bool(a <= b)),
    "Greater": _elementwise(lambda a, b: bool(a > b)),
    "GreaterOrEqual": _elementwise(lambda a, b: bool(a >= b)),
    "And": _elementwise(lambda a, b: bool(a and b)),
    "Or": _elementwise(lambda a, b: bool(a or b)),
    "Not": _elementwise(lambda a: not a, inputs=1),
    "Where": _where,
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Range": _range,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Identity": lambda call: _host(call, 0),
    "ReduceProd": _reduced(lambda a, b: a * b),
    "ReduceSum": _reduced(lambda a, b: a + b),
    "ReduceMax": _reduced(torch.sym_max),
    "ReduceMin": _reduced(torch.sym_min),
}
"""By operator; one gives null where its result had better be a tensor."""
