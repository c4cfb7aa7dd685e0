"""What must stand in the files of the schemes whose activations leave each layer as floats."""

from collections import Counter
from pathlib import Path

import onnx

from app.domain.errors import CheckFailed
from workers.compression.quantization.fusion import fused_operators

DYNAMIC = frozenset({"DynamicQuantizeMatMul", "MatMulIntegerToFloat"})
PACKED = frozenset({"MatMulNBits", "GatherBlockQuantized"})
_SIXTEEN_BITS = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


def check_dynamic(path: Path) -> Counter[str]:
    """Make sure that linear layers run on integers, each with its scale in the same kernel. Raises CheckFailed."""
    operators = fused_operators(path)
    # Of a network with no product to quantize, the embeddings alone are.
    if (DYNAMIC | PACKED).isdisjoint(operators):
        raise CheckFailed("ONNX Runtime runs no layer of the quantized file on integers.")
    if operators["MatMulInteger"]:
        raise CheckFailed(
            f"ONNX Runtime scales {operators['MatMulInteger']} integer products in operators of their own."
        )
    return operators


def check_packed(path: Path) -> Counter[str]:
    """Make sure that packed weights reach the runtime's kernels as they are. Raises CheckFailed."""
    operators = fused_operators(path)
    if PACKED.isdisjoint(operators):
        raise CheckFailed("ONNX Runtime runs no layer of the quantized file on packed weights.")
    return operators


def check_cast(path: Path) -> Counter[str]:
    """Make sure that weights are stored in 16 bits. Raises CheckFailed."""
    stored = onnx.load(path).graph.initializer
    if not any(tensor.data_type in _SIXTEEN_BITS for tensor in stored):
        raise CheckFailed("The quantized file holds no weight of 16 bits.")
    return fused_operators(path)
