"""Layers that were left in float stay so, whatever surrounds them."""

import numpy as np
import onnx

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})


def keep_in_float(graph: onnx.GraphProto) -> None:
    """Dequantize what a layer with float weights reads by a scale for each channel, all of them the same.

    Behind one scale for all, and before integers, ONNX Runtime quantizes the float weights of a layer by itself, one
    scale a tensor: the layer would be neither what was judged nor what the ``.pt2`` computes.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    writers = {name: node for node in graph.node for name in node.output}
    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type not in _WEIGHTED or node.input[1] not in constants:
            continue
        given = writers.get(node.input[0])
        if given is None or given.op_type != "DequantizeLinear":
            continue
        channels = _input_channels(node, constants[node.input[1]])
        names = [given.input[0]]
        for parameter, what in zip(given.input[1:], ("scale", "zero_point"), strict=True):
            values = np.full(channels, onnx.numpy_helper.to_array(constants[parameter]))
            names.append(f"{node.name}_input_{what}")
            graph.initializer.append(onnx.numpy_helper.from_array(values, names[-1]))
        node.input[0] = f"{node.name}_input"
        made = onnx.helper.make_node("DequantizeLinear", names, [node.input[0]], name=node.input[0], axis=1)
        graph.node.insert(place, made)
    _drop_unread(graph)


def _input_channels(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Conv":
        return int(weight.dims[1] * attributes.get("group", 1))
    outputs_first = node.op_type == "Gemm" and attributes.get("transB", 0)
    return int(weight.dims[1] if outputs_first else weight.dims[0])


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Delete dequantized values that nothing reads any more."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "DequantizeLinear" and read.isdisjoint(node.output):
            del graph.node[place]
