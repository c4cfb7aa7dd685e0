"""Layers whose weights are stored as integers.

Each computes in plain torch operators, which is what a ``.pt2`` holds, so that torch alone can load it;
``for_runtime`` gives the same layer as the operators that ONNX Runtime has a kernel for.
"""

import copy

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.compression.network import STORED_WEIGHT
from workers.compression.quantization.groups import Groups, dequantize_groups, pack, unpack

MICROSOFT = "com.microsoft"
UNFOLDED = "winnow"
"""A domain for standard operators that the exporter must not compute beforehand; the file names the standard's."""
UINT8_MAX = 255


class StoredLayer(nn.Module):
    """A layer with its weight under ``STORED_WEIGHT``."""

    bits: int
    saturated = 0.0
    """Share of weights that lay beyond what the stored ones reach."""

    def for_runtime(self) -> nn.Module:
        raise NotImplementedError


def _kept(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().clone()


class PackedLayer(StoredLayer):
    """Weights in groups: bytes (rows, groups, bytes of a group), scales (rows, groups), zero points two to a byte."""

    stored_weight: Tensor
    scales: Tensor
    zero_points: Tensor | None

    def __init__(self, groups: Groups, bits: int, inputs: int, *, symmetric: bool) -> None:
        super().__init__()
        self.rows, self.group_count, self.group_size = groups.integers.shape
        self.bits, self.inputs, self.saturated = bits, inputs, groups.saturated
        self.register_buffer(STORED_WEIGHT, pack(groups.integers, bits))
        self.register_buffer("scales", groups.scales)
        self.register_buffer("zero_points", None if symmetric else pack(groups.zero_points, bits))

    def restore(self, packed: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Give the float weights of whole rows."""
        if zero_points is None:
            return dequantize_groups(unpack(packed, self.bits), scales, 2 ** (self.bits - 1), self.inputs)
        shifts = unpack(zero_points, self.bits)[..., : self.group_count]
        return dequantize_groups(unpack(packed, self.bits), scales, shifts, self.inputs)


class PackedLinear(PackedLayer):
    """``y = x·ŵᵀ + b``, in float."""

    bias: Tensor | None

    def __init__(self, groups: Groups, bits: int, inputs: int, bias: Tensor | None, *, symmetric: bool) -> None:
        super().__init__(groups, bits, inputs, symmetric=symmetric)
        self.register_buffer("bias", _kept(bias))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.restore(self.stored_weight, self.scales, self.zero_points), self.bias)

    def for_runtime(self) -> nn.Module:
        return _MatMulNBits(self)


class PackedEmbedding(PackedLayer):
    """Rows of ŵ by their indices."""

    def forward(self, indices: Tensor) -> Tensor:
        picked = [
            None if table is None else table[indices] for table in (self.stored_weight, self.scales, self.zero_points)
        ]
        packed, scales, zero_points = picked
        assert packed is not None
        assert scales is not None
        return self.restore(packed, scales, zero_points)

    def for_runtime(self) -> nn.Module:
        return _GatherBlockQuantized(self)


class DynamicLinear(StoredLayer):
    """Integers in, integers in between: ``y = s_x·s_w·Σ(q_x − z_x)·q_w + b``.

    The weight (inputs, outputs) is int8 with a scale an output; s_x and z_x come from the values as they arrive, all
    rows of a batch together, by the formulas of ONNX's ``DynamicQuantizeLinear``.
    """

    bits = 8
    stored_weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, bound: int) -> None:
        super().__init__()
        weight = weight.detach()
        largest = weight.abs().amax(1)
        scales = torch.where(largest > 0, largest / bound, torch.ones_like(largest))
        integers = torch.round(weight / scales.unsqueeze(1)).clamp(-bound, bound)
        self.register_buffer(STORED_WEIGHT, integers.to(torch.int8).t().contiguous())
        self.register_buffer("scales", scales)
        self.register_buffer("bias", _kept(bias))

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.min().clamp(max=0), x.max().clamp(min=0)
        scale = torch.where(high > low, (high - low) / UINT8_MAX, torch.ones_like(high))
        zero_point = torch.round((-low / scale).clamp(0, UINT8_MAX))
        integers = (torch.round(x / scale) + zero_point).clamp(0, UINT8_MAX)
        # Sums of integers are exact in float32 up to 2²⁴, and rounded as ONNX Runtime rounds them beyond.
        sums = torch.matmul(integers - zero_point, self.stored_weight.float())
        y = sums * (scale * self.scales)
        return y if self.bias is None else y + self.bias

    def for_runtime(self) -> nn.Module:
        return _MatMulInteger(self)


class CastLayer(StoredLayer):
    """A layer whose weight is stored as 16-bit floats; it computes in float32 on what they are worth."""

    bits = 16
    stored_weight: Tensor

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        weight = layer.get_parameter("weight").detach()
        self.register_buffer(STORED_WEIGHT, weight.to(dtype))
        self.layer = copy.deepcopy(layer).requires_grad_(requires_grad=False)
        del self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Embedding):
            return self.restore(F.embedding(x, self.stored_weight))
        weight = {"weight": self.restore(self.stored_weight)}
        return torch.func.functional_call(self.layer, weight, (x,))

    def restore(self, stored: Tensor) -> Tensor:
        return stored.float()

    def for_runtime(self) -> nn.Module:
        same = copy.copy(self)
        same.__class__ = _RuntimeCastLayer
        return same


class _RuntimeCastLayer(CastLayer):
    def restore(self, stored: Tensor) -> Tensor:
        to = {"to": onnx.TensorProto.FLOAT}
        return torch.onnx.ops.symbolic(
            f"{UNFOLDED}::Cast", (stored,), to, dtype=torch.float32, shape=stored.shape, version=1
        )


class _MatMulNBits(nn.Module):
    def __init__(self, layer: PackedLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        zero_points = None if layer.zero_points is None else layer.zero_points.flatten()
        return torch.onnx.ops.symbolic(
            f"{MICROSOFT}::MatMulNBits",
            (x, layer.stored_weight, layer.scales.flatten(), zero_points, None, layer.bias),
            {"K": layer.inputs, "N": layer.rows, "bits": layer.bits, "block_size": layer.group_size},
            dtype=torch.float32,
            shape=(*x.shape[:-1], layer.rows),
            version=1,
        )


class _GatherBlockQuantized(nn.Module):
    def __init__(self, layer: PackedEmbedding) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, indices: Tensor) -> Tensor:
        layer = self.layer
        whole = torch.onnx.ops.symbolic(
            f"{MICROSOFT}::GatherBlockQuantized",
            (layer.stored_weight.flatten(1), indices, layer.scales, layer.zero_points),
            {"bits": layer.bits, "block_size": layer.group_size, "gather_axis": 0, "quantize_axis": 1},
            dtype=torch.float32,
            shape=(*indices.shape, layer.group_count * layer.group_size),
            version=1,
        )
        return whole[..., : layer.inputs]


class _MatMulInteger(nn.Module):
    """The standard's own operators, in the order that ONNX Runtime joins to one kernel."""

    def __init__(self, layer: DynamicLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        integers, scale, zero_point = torch.onnx.ops.symbolic_multi_out(
            "DynamicQuantizeLinear",
            (x,),
            dtypes=(torch.uint8, torch.float32, torch.uint8),
            shapes=(x.shape, (), ()),
            version=11,
        )
        sums = torch.onnx.ops.symbolic(
            "MatMulInteger",
            (integers, layer.stored_weight, zero_point),
            dtype=torch.int32,
            shape=(*x.shape[:-1], layer.stored_weight.shape[1]),
            version=10,
        )
        y = sums.to(torch.float32) * (scale * layer.scales)
        return y if layer.bias is None else y + layer.bias
