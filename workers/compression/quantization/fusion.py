"""What ONNX Runtime makes of a quantized file."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
import onnxruntime

from app.domain.errors import CheckFailed

INTEGER_LAYERS = frozenset({"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"})
MOVING = frozenset(
    {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Resize", "Identity", "Expand", "Slice"}
)
"""Operators that give out values that came in."""
_BYTES = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})
_CONVERTING = frozenset({"QuantizeLinear", "DequantizeLinear"})


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
        CheckFailed: no layer does, or one computes in float on what was stored as integers, or values are quantized
            only to be dequantized again.
    """
    graph = optimized_graph(path)
    nodes = graph.node
    lone = _readers_of_stored_values(nodes)
    if lone:
        raise CheckFailed(f"ONNX Runtime runs quantized layers in float: {', '.join(lone)}.")
    idle = unfused_pairs(nodes)
    if idle:
        raise CheckFailed(f"{len(idle)} pairs of quantize and dequantize have nothing between them: {'; '.join(idle)}.")
    operators = Counter(node.op_type for node in nodes)
    # Where no product is left to quantize, the embeddings alone are.
    if INTEGER_LAYERS.isdisjoint(operators) and not _looks_up_bytes(graph):
        raise CheckFailed("ONNX Runtime runs no layer of the quantized file on integers.")
    return operators


def _looks_up_bytes(graph: onnx.GraphProto) -> bool:
    tables = {stored.name for stored in graph.initializer if stored.data_type in _BYTES}
    return any(node.op_type == "Gather" and node.input[0] in tables for node in graph.node)


def unfused_pairs(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Name what stands before and behind each pair that nothing fused.

    What is quantized must reach an integer operator: where it comes out as float again, moved at most, the pair has
    only cost time and accuracy. Where one branch does so and another is an integer, the latter pays for it.
    """
    listed = list(nodes)
    writers = {name: node for node in listed for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in listed:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    idle = []
    for node in listed:
        if node.op_type != "QuantizeLinear":
            continue
        ends = _ends(node.output[0], readers)
        if all(end.op_type == "DequantizeLinear" for end in ends):
            before = layer_of(writers[node.input[0]], listed) if node.input[0] in writers else node.input[0]
            behind = sorted({layer_of(reader, listed) for end in ends for reader in readers.get(end.output[0], [])})
            idle.append(f"{before} to {', '.join(behind) or 'nothing'}")
    return idle


def _ends(name: str, readers: Mapping[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """Follow a value through what only moves it, to the operators that compute with it."""
    found = []
    for reader in readers.get(name, []):
        found += _ends(reader.output[0], readers) if reader.op_type in MOVING else [reader]
    return found


def _readers_of_stored_values(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Name what reads weights or biases that are dequantized in every run: what fuses takes them as integers."""
    listed = list(nodes)
    made = {name for node in listed for name in node.output}
    stored = {
        node.output[0] for node in listed if node.op_type == "DequantizeLinear" and made.isdisjoint(node.input)
    }  # fmt: skip
    return sorted({layer_of(node, listed) for node in listed if not stored.isdisjoint(node.input)})


def layer_of(node: onnx.NodeProto, nodes: Iterable[onnx.NodeProto]) -> str:
    """Name the layer whose weight a node reads, dequantized or not; a node without one by its own name."""
    sources = {name: writer.input[0] for writer in nodes if writer.op_type in _CONVERTING for name in writer.output}
    read = [sources.get(name, name) for name in node.input]
    return next((name.removesuffix(".weight") for name in read if name.endswith(".weight")), node.name)
