"""Dynamic quantization: linear layers quantize what comes in as they run, so that nothing is calibrated."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from app.domain.steps.quantize import QuantizeSpec
from workers.compression.counting import describe_layers
from workers.compression.network import Network
from workers.compression.quantization.calibration import Inputs, run_batches
from workers.compression.quantization.kernels import reduces_range, weight_bound
from workers.compression.quantization.objective import hold_objective
from workers.compression.quantization.stored import DynamicLinear, PackedEmbedding
from workers.compression.quantization.swapping import Make, Swapped, sample_rows, swap_layers
from workers.compression.quantization.weight_only import pack_embedding
from workers.compression.step import Context, StepResult

EMBEDDING_BITS = 8
EMBEDDING_GROUPS = (128, 64, 32)
"""Sizes that the kernel takes; the larger, the fewer scales."""


def run(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    """Quantize linear layers with their inputs, and the rows of embeddings, which no product follows.

    Convolutions stay in float: ONNX Runtime's ConvInteger is slower than its float kernel (ADR 15). With an
    objective, layers go back to float until no more is lost than allowed. Raises as swap_layers does.
    """
    reduce_range = reduces_range(spec.reduce_range)
    bound = weight_bound(reduce_range=reduce_range)

    def linear(layer: nn.Linear, _: int | None) -> DynamicLinear:
        return DynamicLinear(layer.weight, layer.bias, bound)

    def embedding(layer: nn.Embedding, _: int | None) -> PackedEmbedding:
        return pack_embedding(
            layer, bits=EMBEDDING_BITS, group_size=embedding_group(layer.embedding_dim), symmetric=True
        )

    makers: dict[type[nn.Module], Make] = {nn.Linear: linear, nn.Embedding: embedding}
    swapped = swap_layers(network, makers, spec)
    rows = sample_rows(network, spec, context)
    held = hold_objective(_Choices(swapped, rows), network, spec, context, observed=0, begin=0.0)
    if held and held.floats:
        swapped = swapped.put_back(held.floats)
    details = swapped.details(rows) | {"reduce_range": reduce_range}
    return StepResult(swapped.after, details | ({"gate": held.as_json()} if held else {}))


def embedding_group(width: int) -> int:
    """Choose the size of groups in which a row takes the fewest bytes: filled up, each with a scale of four."""

    def row_bytes(size: int) -> int:
        groups = -(-width // size)
        return groups * (size + 4)

    return min(EMBEDDING_GROUPS, key=row_bytes)


class _Choices:
    """Tries choices of layers in one module, whose layers are exchanged from try to try."""

    def __init__(self, swapped: Swapped, rows: Inputs | None) -> None:
        self.swapped, self.rows = swapped, rows
        self.module = copy.deepcopy(swapped.after.module)

    def reference(self, batches: list[Inputs]) -> Tensor:
        return run_batches(self.swapped.before.module, batches)

    def outputs(self, floats: frozenset[str], batches: list[Inputs]) -> Tensor:
        before = self.swapped.before.module
        for name, layer in self.swapped.layers.items():
            path = self.swapped.paths[name]
            self.module.set_submodule(path, before.get_submodule(path) if name in floats else layer)
        return run_batches(self.module, batches)

    def sqnr(self) -> Mapping[str, float | None]:
        figures = self.swapped.figures(self.rows) if self.rows else {}
        return {name: figures[name][1] if name in figures else None for name in self.swapped.layers}

    def macs(self) -> Mapping[str, float]:
        by_path = {layer.name: float(layer.macs) for layer in describe_layers(self.swapped.before)}
        return {name: by_path.get(path, 0.0) for name, path in self.swapped.paths.items()}
