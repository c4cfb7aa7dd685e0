"""An ONNX file as plain data: nodes in order, constants by name, inputs with their sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from app.domain.errors import CorruptFile, UnsupportedNetwork

Array = NDArray[Any]
OLDEST_OPSET = 9
STANDARD = frozenset({"", "ai.onnx"})
_OTHER_FLOATS = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16",
                 onnx.TensorProto.DOUBLE: "float64"}  # fmt: skip
_SCOPES = "pkg.torch.onnx.name_scopes"
_FLOAT = "Export model.float() with float32 inputs."


@dataclass
class Node:
    """One operator; an input or output that is left out has the name ``""``."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    scope: str = ""
    """The dotted name of the module that the node was in, where the file tells it."""

    @property
    def label(self) -> str:
        return f"{self.op} ({self.name or ', '.join(self.outputs)})"

    def input(self, place: int) -> str:
        return self.inputs[place] if place < len(self.inputs) else ""


@dataclass(frozen=True)
class Input:
    """A graph's input: ``sizes`` holds numbers, the names of dynamic dimensions, and null where one has no name."""

    name: str
    dtype: np.dtype[Any]
    sizes: tuple[int | str | None, ...]


@dataclass
class Graph:
    """``constants`` are the file's weights and whatever was found to be constant beside them."""

    nodes: list[Node]
    constants: dict[str, Array]
    inputs: list[Input]
    outputs: list[str]
    opset: int

    def readers(self) -> dict[str, list[Node]]:
        """Give the nodes that read each value, also from within a branch."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in reads(node):
                found.setdefault(name, []).append(node)
        return found

    def writers(self) -> dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs if name}

    def all_nodes(self) -> Iterator[Node]:
        """Give every node, those within branches too."""
        for node in self.nodes:
            yield node
            for branch in branches(node):
                yield from branch.all_nodes()


def branches(node: Node) -> list[Graph]:
    return [value for value in node.attributes.values() if isinstance(value, Graph)]


def reads(node: Node) -> set[str]:
    """Name the values that a node reads, those that its branches take from outside too."""
    found = {name for name in node.inputs if name}
    for branch in branches(node):
        own = set(branch.constants) | {name for inner in branch.nodes for name in inner.outputs}
        found |= (set(branch.outputs) | {name for inner in branch.nodes for name in reads(inner)}) - own
    return found


def read_graph(path: Path) -> Graph:
    """Read a file that was admitted.

    Raises:
        CorruptFile: the library's own checker refuses it.
        UnsupportedNetwork: it holds operator sets or numbers that no network here has.
    """
    model = parse(path)
    opset = max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)
    if opset < OLDEST_OPSET:
        raise UnsupportedNetwork(
            f"The file is of operator set {opset}; the oldest that is read is {OLDEST_OPSET}.",
            hint=f"Export it again, with opset_version={OLDEST_OPSET} or above.",
        )
    return _graph(model.graph, opset)


def parse(path: Path) -> onnx.ModelProto:
    """Parse the file and have the library check it before any runtime sees it."""
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model, full_check=False)
    except Exception as error:
        # The parser and the checker have errors without a common root.
        raise CorruptFile(
            f"The file is no valid ONNX model: {str(error).splitlines()[0]}",
            hint="Export it anew; onnx.checker.check_model says of a file what it says here.",
        ) from error
    return model


def _graph(proto: onnx.GraphProto, opset: int) -> Graph:
    constants = {tensor.name: _array(tensor) for tensor in proto.initializer}
    nodes = []
    for entry in proto.node:
        node = _node(entry, opset)
        if node.op == "Constant":
            constants[node.outputs[0]] = _constant(node)
        else:
            nodes.append(node)
    inputs = [_input(value) for value in proto.input if value.name not in constants]
    return Graph(nodes, constants, inputs, [value.name for value in proto.output], opset)


def _node(entry: onnx.NodeProto, opset: int) -> Node:
    attributes = {attribute.name: _attribute(attribute, opset) for attribute in entry.attribute}
    domain = "" if entry.domain in STANDARD else entry.domain
    scope = next((pair.value for pair in entry.metadata_props if pair.key == _SCOPES), "")
    # A list of texts, from the outermost module to the operator itself.
    modules = re.findall(r"'([^']*)'", scope)[:-1]
    return Node(
        entry.op_type,
        entry.name,
        list(entry.input),
        list(entry.output),
        attributes,
        domain,
        next(iter(modules[::-1]), ""),
    )


def _attribute(attribute: onnx.AttributeProto, opset: int) -> Any:
    match attribute.type:
        case onnx.AttributeProto.TENSOR:
            return _array(attribute.t)
        case onnx.AttributeProto.GRAPH:
            return _graph(attribute.g, opset)
        case onnx.AttributeProto.STRING:
            return attribute.s.decode("utf-8", "replace")
        case onnx.AttributeProto.INTS | onnx.AttributeProto.FLOATS:
            return list(onnx.helper.get_attribute_value(attribute))
        case onnx.AttributeProto.INT | onnx.AttributeProto.FLOAT:
            return onnx.helper.get_attribute_value(attribute)
    return None


def _constant(node: Node) -> Array:
    for key, dtype in (("value", None), ("value_int", np.int64), ("value_float", np.float32),
                       ("value_ints", np.int64), ("value_floats", np.float32)):  # fmt: skip
        if node.attributes.get(key) is not None:
            return np.asarray(node.attributes[key], dtype=dtype)
    raise UnsupportedNetwork(f"{node.label} holds no numbers.")


def _array(tensor: onnx.TensorProto) -> Array:
    other = _OTHER_FLOATS.get(tensor.data_type)
    if other in {"float16", "bfloat16"}:
        raise UnsupportedNetwork(f"The weight {tensor.name!r} is {other}; networks are taken in float32.", hint=_FLOAT)
    return onnx.numpy_helper.to_array(tensor)


def _input(value: onnx.ValueInfoProto) -> Input:
    kind = value.type.tensor_type
    if kind.elem_type in _OTHER_FLOATS:
        raise UnsupportedNetwork(
            f"The input {value.name!r} is {_OTHER_FLOATS[kind.elem_type]}; networks are taken in float32.", hint=_FLOAT
        )
    if not kind.HasField("shape"):
        raise UnsupportedNetwork(f"The input {value.name!r} has no shape.", hint="Give it one in the export.")
    sizes = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim)
    return Input(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), sizes)
