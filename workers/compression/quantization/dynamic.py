"""Dynamic quantization: linear layers quantize what comes in as they run, so that nothing is calibrated."""

from functools import partial

from torch import nn

from app.domain.recipe import QuantizeSpec
from workers.compression.network import Network
from workers.compression.quantization.static import reduces_range, torchao_quiet
from workers.compression.quantization.stored import DynamicLinear
from workers.compression.quantization.swapping import Make, sample_rows, swap_layers
from workers.compression.quantization.weight_only import pack_embedding
from workers.compression.step import Context, StepResult

BITS = 8
EMBEDDING_GROUP = 128


def run(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    """Quantize linear layers with their inputs, and the rows of embeddings, which no product follows.

    Convolutions stay in float: ONNX Runtime's ConvInteger is slower than its float kernel (ADR 14).
    """
    with torchao_quiet():
        from workers.compression.quantization.quantizer import WEIGHT_MAX, WEIGHT_MAX_REDUCED
    reduce_range = reduces_range(spec)
    bound = WEIGHT_MAX_REDUCED if reduce_range else WEIGHT_MAX

    def linear(layer: nn.Linear) -> DynamicLinear:
        bias = None if layer.bias is None else layer.bias.detach().clone()
        return DynamicLinear(layer.weight.detach(), bias, bound)

    embedding = partial(pack_embedding, bits=BITS, group_size=EMBEDDING_GROUP, symmetric=True)
    makers: dict[type[nn.Module], Make] = {nn.Linear: linear, nn.Embedding: embedding}
    swapped = swap_layers(network, makers, spec.exclude)
    details = swapped.details(dict.fromkeys(swapped.layers, BITS), sample_rows(network, context))
    return StepResult(swapped.after, details | {"reduce_range": reduce_range})
