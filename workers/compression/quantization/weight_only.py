"""Weights packed in groups of a few bits; sums stay in float."""

from typing import Any

from torch import nn

from app.domain.steps.quantize import QuantizeSpec
from workers.compression.network import Network
from workers.compression.quantization.groups import quantize_groups
from workers.compression.quantization.stored import PackedEmbedding, PackedLinear
from workers.compression.quantization.swapping import Make, Swapped, sample_rows, swap_layers
from workers.compression.step import Context, StepResult

BITS = {"int8": 8, "int4": 4}


def run(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    """Pack the weights of linear layers and embeddings. Raises as swap_layers does."""
    bits, group_size, symmetric = packing(spec)
    swapped = swap_layers(network, makers(bits, group_size, symmetric=symmetric), spec)
    return StepResult(swapped.after, describe(swapped, network, spec, context))


def packing(spec: QuantizeSpec) -> tuple[int, int, bool]:
    """Give bits, group size and whether groups are symmetric, which the spec has filled in."""
    assert spec.group_size is not None
    assert spec.symmetric is not None
    return BITS[spec.weights], spec.group_size, spec.symmetric


def describe(swapped: Swapped, network: Network, spec: QuantizeSpec, context: Context) -> dict[str, Any]:
    details = swapped.details(sample_rows(network, spec, context))
    return details | {"group_size": spec.group_size, "symmetric": spec.symmetric}


def makers(bits: int, group_size: int, *, symmetric: bool) -> dict[type[nn.Module], Make]:
    """Give what packs each kind of layer, into ``bits`` where it has none of its own."""

    def linear(layer: nn.Linear, own: int | None) -> PackedLinear:
        groups = quantize_groups(layer.weight.detach(), own or bits, group_size, symmetric=symmetric)
        return PackedLinear(groups, own or bits, layer.in_features, layer.bias, symmetric=symmetric)

    def embedding(layer: nn.Embedding, own: int | None) -> PackedEmbedding:
        return pack_embedding(layer, bits=own or bits, group_size=group_size, symmetric=symmetric)

    return {nn.Linear: linear, nn.Embedding: embedding}


def pack_embedding(layer: nn.Embedding, *, bits: int, group_size: int, symmetric: bool) -> PackedEmbedding:
    groups = quantize_groups(layer.weight.detach(), bits, group_size, symmetric=symmetric)
    return PackedEmbedding(groups, bits, layer.embedding_dim, symmetric=symmetric)
