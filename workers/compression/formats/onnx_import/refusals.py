"""What is lacking, told all at once and by name."""

from __future__ import annotations

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.onnx_import.graph import Graph, Node, branches
from workers.compression.formats.onnx_import.operators import OPERATORS
from workers.compression.formats.onnx_import.sizes import OF_SHAPES, SIZES

_QUANTIZED = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "QAttention",
    "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid",
    "QLinearLeakyRelu", "QLinearSoftmax", "GatherBlockQuantized",
})  # fmt: skip
_NAMED_PLACES = 3
_HINTS = {
    "LSTM": "Export the network with torch.export as .pt2.",
    "GRU": "Export the network with torch.export as .pt2.",
    "RNN": "Export the network with torch.export as .pt2.",
    "Loop": "Export with a fixed number of steps, which then stand in the graph one by one.",
    "Scan": "Export with a fixed number of steps, which then stand in the graph one by one.",
    "If": "Export with a fixed value of the condition, or one that follows from the inputs' shapes.",
}
_HOW = "Leave the operator out, or export the network with torch.export as .pt2."


def check_operators(graph: Graph) -> None:
    """Raise UnsupportedNetwork with every operator that is not read, where it stands and what to do."""
    quantized = [node for node in graph.all_nodes() if node.op in _QUANTIZED]
    if quantized:
        raise UnsupportedNetwork(
            f"The network is quantized already: {quantized[0].label} is one of {len(quantized)} such operators.",
            hint="Upload the float network, and have it quantized here.",
        )
    lacking: dict[str, list[str]] = {}
    known = set(graph.constants)
    for node in graph.nodes:
        for part in _lacking(node, known):
            lacking.setdefault(_kind(part), []).append(part.name or part.outputs[0])
        if node.op in OF_SHAPES or (node.op in SIZES and known.issuperset(filter(None, node.inputs))):
            known.update(node.outputs)
    if lacking:
        told = "; ".join(f"{kind} ({_places(places)})" for kind, places in sorted(lacking.items()))
        hints = list(dict.fromkeys(_HINTS.get(kind, _HOW) for kind in sorted(lacking)))
        raise UnsupportedNetwork(f"These operators are not read: {told}.", hint=" ".join(hints))


def _lacking(node: Node, known: set[str]) -> list[Node]:
    """Give a node that is not read, or those within its branches; no input's values change those ``known``."""
    if node.op == "If" and not node.domain and node.inputs[0] in known:
        return [part for branch in branches(node) for inner in branch.nodes for part in _lacking(inner, known)]
    return [] if node.op in OPERATORS and not node.domain else [node]


def _kind(node: Node) -> str:
    return f"{node.domain}.{node.op}" if node.domain else node.op


def _places(places: list[str]) -> str:
    more = len(places) - _NAMED_PLACES
    return ", ".join(places[:_NAMED_PLACES]) + (f" and {more} more" if more > 0 else "")
