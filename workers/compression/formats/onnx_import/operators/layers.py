"""Operators with weights: products, convolutions and norms, called so that lifting makes ``nn`` modules of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.onnx_import.operators.padding import symmetric_padding, window_padding
from workers.compression.formats.onnx_import.values import Call, Operator

_CONVOLUTIONS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _convolution(call: Call) -> Tensor:
    x, weight = call.tensor(0), call.tensor(1)
    rank = weight.dim() - 2
    if rank not in _CONVOLUTIONS:
        raise UnsupportedNetwork(f"{call.node.label} runs over {rank} dimensions; 1 to 3 are read.")
    strides = call.attribute("strides", [1] * rank)
    dilations = call.attribute("dilations", [1] * rank)
    pads = window_padding(call, x, list(weight.shape[2:]), strides, dilations)
    padding = symmetric_padding(pads)
    if padding is None:
        x, padding = F.pad(x, pads), [0] * rank
    return _CONVOLUTIONS[rank](
        x, weight, call.optional(2), strides, padding, dilations, int(call.attribute("group", 1))
    )


def _transposed_convolution(call: Call) -> Tensor:
    x, weight = call.tensor(0), call.tensor(1)
    rank = weight.dim() - 2
    if rank not in _TRANSPOSED:
        raise UnsupportedNetwork(f"{call.node.label} runs over {rank} dimensions; 1 to 3 are read.")
    strides = call.attribute("strides", [1] * rank)
    dilations = call.attribute("dilations", [1] * rank)
    extra = list(call.attribute("output_padding", [0] * rank))
    pads = list(call.attribute("pads", [0] * 2 * rank))
    if call.attribute("auto_pad", "NOTSET") not in {"NOTSET", "VALID"} or "output_shape" in call.node.attributes:
        raise UnsupportedNetwork(
            f"{call.node.label} leaves its padding to the runtime.", hint="Export it with explicit pads."
        )
    # What is cut off more at the end than at the start is output that torch would not make.
    more = [end - start for start, end in zip(pads[:rank], pads[rank:], strict=True)]
    extra = [given - cut for given, cut in zip(extra, more, strict=True)]
    if min(extra) < 0:
        raise UnsupportedNetwork(f"{call.node.label} pads {pads}, more at the end than at the start.")
    return _TRANSPOSED[rank](
        x, weight, call.optional(2), strides, pads[:rank], extra, int(call.attribute("group", 1)), dilations
    )


def _linear(call: Call) -> Tensor:
    """Multiply with a weight that stands as torch has it: (outputs, inputs)."""
    return F.linear(call.tensor(0), call.tensor(1), call.optional(2))


def _embedding(call: Call) -> Tensor:
    """Look rows up in a table; whoever counts from its end gets what the file gives."""
    return F.embedding(call.tensor(0), call.tensor(1))


def _gemm(call: Call) -> Tensor:
    left, right = call.tensor(0), call.tensor(1)
    left = left.t() if call.attribute("transA", 0) else left
    right = right.t() if call.attribute("transB", 0) else right
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    product = left @ right if alpha == 1 else alpha * (left @ right)
    if not call.given(2):
        return product
    return product + (call.tensor(2) if beta == 1 else beta * call.tensor(2))


def _matrix_product(call: Call) -> Tensor:
    return torch.matmul(call.tensor(0), call.tensor(1))


def _batch_norm(call: Call) -> Tensor:
    if call.attribute("training_mode", 0):
        raise UnsupportedNetwork(f"{call.node.label} is in training mode.", hint="Export after model.eval().")
    x, weight, bias, mean, variance = (call.tensor(place) for place in range(5))
    momentum = round(1 - call.attribute("momentum", 0.9), 6)
    return F.batch_norm(x, mean, variance, weight, bias, False, momentum, call.attribute("epsilon", 1e-5))  # noqa: FBT003 - torch's own order


def _layer_norm(call: Call) -> Tensor:
    x = call.tensor(0)
    axis = int(call.attribute("axis", -1)) % x.dim()
    return F.layer_norm(x, x.shape[axis:], call.optional(1), call.optional(2), call.attribute("epsilon", 1e-5))


def _rms_norm(call: Call) -> Tensor:
    x = call.tensor(0)
    axis = int(call.attribute("axis", -1)) % x.dim()
    return F.rms_norm(x, x.shape[axis:], call.optional(1), call.attribute("epsilon", 1e-5))


def _group_norm(call: Call) -> Tensor:
    """Before operator set 21 it had one scale a group; the checker refuses that as deprecated."""
    return F.group_norm(
        call.tensor(0),
        int(call.attribute("num_groups")),
        call.tensor(1),
        call.tensor(2),
        call.attribute("epsilon", 1e-5),
    )


def _instance_norm(call: Call) -> Tensor:
    x, weight, bias = (call.tensor(place) for place in range(3))
    return F.instance_norm(x, weight=weight, bias=bias, eps=call.attribute("epsilon", 1e-5))


def _local_response(call: Call) -> Tensor:
    return F.local_response_norm(
        call.tensor(0), int(call.attribute("size")), call.attribute("alpha", 1e-4), call.attribute("beta", 0.75),
        call.attribute("bias", 1.0),
    )  # fmt: skip


def _dropout(call: Call) -> Tensor:
    share = call.attribute("ratio")
    if share is None:
        share = 0.5 if not call.given(1) else float(call.operand(1))
    return F.dropout(call.tensor(0), float(f"{share:.7g}"), training=False)


def _einsum(call: Call) -> Tensor:
    parts = [call.tensor(place) for place in range(len(call.inputs))]
    return torch.einsum(call.attribute("equation"), *parts)


LAYERS: dict[str, Operator] = {
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Embedding": _embedding,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "Linear": _linear,
    "MatMul": _matrix_product,
    "RMSNormalization": _rms_norm,
}
"""``Embedding`` and ``Linear`` are no operators of ONNX: the rewriting makes them of what is computed with weights."""
