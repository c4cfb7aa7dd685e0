"""What ONNX Runtime makes of a quantized file."""

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

from app.domain.errors import CheckFailed

INTEGER_LAYERS = frozenset({"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"})
FLOAT_LAYERS = frozenset({"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})


def optimized_graph(path: Path) -> onnx.GraphProto:
    """Give the graph that ONNX Runtime runs after all its rewrites that do not depend on the processor."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(written)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph: onnx.GraphProto = onnx.load(str(written)).graph
    return graph


def fused_operators(path: Path) -> Counter[str]:
    """Count the operators that ONNX Runtime runs."""
    return Counter(node.op_type for node in optimized_graph(path).node)


def check_fused(path: Path) -> Counter[str]:
    """Count the operators of a quantized file, and make sure that its layers run on integers.

    Raises:
        CheckFailed: no layer does, or one computes in float on what was dequantized just for it.
    """
    nodes = optimized_graph(path).node
    dequantized = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    lone = [node.name for node in nodes if node.op_type in FLOAT_LAYERS and not dequantized.isdisjoint(node.input)]
    if lone:
        raise CheckFailed(f"ONNX Runtime runs quantized layers in float: {', '.join(lone)}.")
    operators = Counter(node.op_type for node in nodes)
    if INTEGER_LAYERS.isdisjoint(operators):
        raise CheckFailed("ONNX Runtime runs no layer of the quantized file on integers.")
    return operators
