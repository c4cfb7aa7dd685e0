"""Layers that train with packed weights in mind: what they compute with is what the packing will leave of them."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from app.domain.steps.quantize import QuantizeSpec
from workers.compression.network import Network
from workers.compression.quantization.groups import (
    Groups,
    Ranges,
    find_ranges,
    follow_ranges,
    restore_groups,
    round_groups,
)
from workers.compression.quantization.stored import PackedEmbedding, PackedLinear, StoredLayer
from workers.compression.quantization.swapping import Swapped, swap_layers
from workers.compression.quantization.weight_only import makers, packing


class RoundedLayer(nn.Module):
    """A float weight of (rows, inputs) with the ranges of its groups."""

    weight: nn.Parameter
    scales: Tensor
    zero_points: Tensor
    shares: Tensor
    frozen: Tensor

    def __init__(self, layer: nn.Linear | nn.Embedding, bits: int, group_size: int, *, symmetric: bool) -> None:
        super().__init__()
        self.bits, self.group_size, self.symmetric = bits, group_size, symmetric
        self.weight = nn.Parameter(layer.weight.detach().clone())
        ranges = find_ranges(self.weight.detach(), bits, group_size, symmetric=symmetric)
        self.register_buffer("scales", ranges.scales)
        self.register_buffer("zero_points", ranges.zero_points)
        self.register_buffer("shares", ranges.shares)
        self.register_buffer("frozen", torch.tensor(False))  # noqa: FBT003 - a value, no switch

    @property
    def ranges(self) -> Ranges:
        return Ranges(self.scales, self.zero_points, self.shares)

    def rounded(self) -> Tensor:
        """Give the weight as it will be unpacked; its gradient is the weight's own."""
        weight = self.weight.detach()
        if self.training and not self.frozen:
            found = follow_ranges(weight, self.ranges, self.bits, self.group_size, symmetric=self.symmetric)
            self.scales.copy_(found.scales)
            self.zero_points.copy_(found.zero_points)
        return self.weight + (restore_groups(weight, self.ranges, self.bits, self.group_size) - weight)

    def groups(self) -> Groups:
        """Give the integers that the weight is packed as."""
        return round_groups(self.weight.detach(), self.ranges, self.bits, self.group_size)


class RoundedLinear(RoundedLayer):
    def __init__(self, layer: nn.Linear, bits: int, group_size: int, *, symmetric: bool) -> None:
        super().__init__(layer, bits, group_size, symmetric=symmetric)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.rounded(), self.bias)

    def plain(self) -> nn.Linear:
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer

    def packed(self) -> PackedLinear:
        return PackedLinear(self.groups(), self.bits, self.weight.shape[1], self.bias, symmetric=self.symmetric)


class RoundedEmbedding(RoundedLayer):
    def forward(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.rounded())

    def plain(self) -> nn.Embedding:
        return nn.Embedding.from_pretrained(self.weight)

    def packed(self) -> PackedEmbedding:
        return PackedEmbedding(self.groups(), self.bits, self.weight.shape[1], symmetric=self.symmetric)


_ROUNDED: dict[type[StoredLayer], Callable[..., RoundedLayer]] = {
    PackedLinear: RoundedLinear,
    PackedEmbedding: RoundedEmbedding,
}


def make_trainable(network: Network, spec: QuantizeSpec) -> tuple[Network, Swapped]:
    """Put rounding layers where ``weight_only`` would pack, and give what that is. Raises as swap_layers does."""
    bits, group_size, symmetric = packing(spec)
    swapped = swap_layers(network, makers(bits, group_size, symmetric=symmetric), spec)
    module = copy.deepcopy(swapped.before.module)
    for name, packed in swapped.layers.items():
        path = swapped.paths[name]
        layer = module.get_submodule(path)
        module.set_submodule(path, _ROUNDED[type(packed)](layer, packed.bits, group_size, symmetric=symmetric))
    return replace(network, module=module), swapped


def pack_trained(trained: Network, untrained: Swapped) -> Swapped:
    """Pack what the training ended with, on the ranges that it ended with."""
    before, after = trained.clone(), trained.clone()
    layers = {}
    for name in untrained.layers:
        path = untrained.paths[name]
        part = trained.module.get_submodule(path)
        assert isinstance(part, RoundedLinear | RoundedEmbedding)
        before.module.set_submodule(path, part.plain())
        layers[name] = part.packed().eval()
        after.module.set_submodule(path, layers[name])
    return replace(untrained, before=before, after=replace(after, quantized=True), layers=layers)
