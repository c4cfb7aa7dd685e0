"""Weights stored as 16-bit floats: half the file, the same speed, as the runtime computes in float32."""

import torch
from torch import nn

from app.domain.errors import NonFiniteWeights
from app.domain.steps.quantize import QuantizeSpec
from workers.compression.network import Network
from workers.compression.quantization.stored import CastLayer
from workers.compression.quantization.swapping import Make, sample_rows, swap_layers
from workers.compression.step import Context, StepResult

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_KINDS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.Linear, nn.Embedding,
)  # fmt: skip


def run(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    """Store the weights of convolutions, linear layers and embeddings as 16-bit floats.

    Raises:
        NothingToQuantize, NoChange: as of swap_layers.
        NonFiniteWeights: a weight is beyond the format's range.
    """
    dtype = DTYPES[spec.weights]

    def make(layer: nn.Module, _: int | None) -> CastLayer:
        return CastLayer(layer, dtype)

    makers: dict[type[nn.Module], Make] = dict.fromkeys(_KINDS, make)
    swapped = swap_layers(network, makers, spec)
    for name, layer in swapped.layers.items():
        if not torch.isfinite(layer.get_buffer("stored_weight")).all():
            raise NonFiniteWeights(
                f"The weights of {name} are beyond the {torch.finfo(dtype).max:g} that {spec.weights} reaches.",
                hint="Name the layer in exclude.",
            )
    return StepResult(swapped.after, swapped.details(sample_rows(network, spec, context)))
