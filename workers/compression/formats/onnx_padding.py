"""Padding with zeros becomes the convolution's own, which quantized files have integer kernels for and Pad has not."""

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

_AROUND = ("QuantizeLinear", "DequantizeLinear")


def fold_padding(graph: onnx.GraphProto) -> None:
    """Fold each Pad that one convolution alone reads, directly or through a pair of quantize and dequantize."""
    writers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    gone = []
    for node in graph.node:
        if node.op_type != "Conv" or any(a.name == "auto_pad" and a.s != b"NOTSET" for a in node.attribute):
            continue
        chain = _chain(node, writers, readers)
        pad = chain[-1] if chain else None
        amounts = _amounts(pad, constants) if pad is not None else None
        if pad is None or amounts is None:
            continue
        _add(node, amounts)
        # What reads the padded values reads them as they were before: the pair, where there is one.
        reader = chain[-2] if len(chain) > 1 else node
        reader.input[0] = pad.input[0]
        before = writers.get(pad.input[0])
        if len(chain) > 1 and before is not None and _same(before, chain[0], constants):
            node.input[0] = pad.input[0]
            gone += chain[:-1]
        gone.append(pad)
    for node in gone:
        graph.node.remove(node)


def _chain(node: NodeProto, writers: dict[str, NodeProto], readers: dict[str, int]) -> list[NodeProto]:
    """List what stands before a convolution up to a Pad: the pair from the end, then the Pad; nothing without one."""
    chain: list[NodeProto] = []
    name = node.input[0]
    while name in writers and readers[name] == 1 and writers[name].op_type in _AROUND and len(chain) < 2:
        chain.append(writers[name])
        name = writers[name].input[0]
    padded = name in writers and readers[name] == 1 and writers[name].op_type == "Pad"
    return [*chain, writers[name]] if padded and len(chain) in {0, 2} else []


def _amounts(pad: NodeProto, constants: dict[str, Any]) -> list[int] | None:
    """Give what is added before and behind each spatial dimension; None where the Pad is another kind."""
    mode = next((a.s for a in pad.attribute if a.name == "mode"), b"constant")
    value = constants.get(pad.input[2], 1) if len(pad.input) > 2 and pad.input[2] else 0
    if mode != b"constant" or np.any(value) or pad.input[1] not in constants or (len(pad.input) > 3 and pad.input[3]):
        return None
    amounts = [int(amount) for amount in np.asarray(constants[pad.input[1]])]
    rank = len(amounts) // 2
    outer = [*amounts[:2], *amounts[rank : rank + 2]]
    if any(outer) or min(amounts) < 0:
        return None
    return [*amounts[2:rank], *amounts[rank + 2 :]]


def _add(convolution: NodeProto, amounts: list[int]) -> None:
    pads = next((a for a in convolution.attribute if a.name == "pads"), None)
    if pads is None:
        convolution.attribute.append(onnx.helper.make_attribute("pads", amounts))
    else:
        pads.ints[:] = [had + more for had, more in zip(pads.ints, amounts, strict=True)]


def _same(a: NodeProto, b: NodeProto, constants: dict[str, Any]) -> bool:
    """Tell whether two nodes dequantize with the same scale and zero point."""

    def equal(x: str, y: str) -> bool:
        return x == y or (x in constants and y in constants and bool(np.array_equal(constants[x], constants[y])))

    return a.op_type == b.op_type == "DequantizeLinear" and all(map(equal, a.input[1:], b.input[1:]))
