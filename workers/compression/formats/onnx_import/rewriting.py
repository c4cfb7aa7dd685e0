"""Layers and activations that exporters take apart, put together again; a pattern is one function, from its last node.

What is put together wrongly changes the outputs, which are compared with the file's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from workers.compression.formats.onnx_import.graph import Array, Graph, Node

NAMED_AFTER = "named_after"
"""The attribute with the file's names of what a node's weights were made of."""


@dataclass
class View:
    """A graph with who writes and who reads what; ``constants`` may grow."""

    writers: dict[str, Node]
    readers: dict[str, list[Node]]
    constants: dict[str, Array]
    outputs: set[str]

    def made(self, name: str, *ops: str) -> Node | None:
        """Give the node that makes this value, where it is such an operator."""
        node = self.writers.get(name)
        return node if node is not None and node.op in ops and not node.domain else None

    def alone(self, name: str) -> bool:
        """Tell whether one node alone reads the value."""
        return name not in self.outputs and len(self.readers.get(name, [])) == 1

    def number(self, name: str) -> float | None:
        array = self.constants.get(name)
        return (
            None if array is None or array.size != 1 or array.dtype.kind not in "fiu" else float(array.reshape(-1)[0])
        )

    def split(self, node: Node) -> tuple[str, Array] | None:
        """Part an operator of two inputs into the computed one and the constant one."""
        for place in range(2):
            constant, other = self.constants.get(node.input(1 - place)), node.input(place)
            if constant is not None and other not in self.constants:
                return other, constant
        return None

    def keep(self, name: str, array: Array) -> str:
        self.constants.setdefault(name, np.ascontiguousarray(array))
        return name


Pattern = Callable[[View, Node], Node | None]


def rewrite(graph: Graph) -> Graph:
    """Apply every pattern once, in order; what nothing reads any more stays for folding to drop."""
    for pattern in PATTERNS:
        view = View(graph.writers(), graph.readers(), dict(graph.constants), set(graph.outputs))
        nodes = [pattern(view, node) or node for node in graph.nodes]
        graph = replace(graph, nodes=nodes, constants=view.constants)
    return graph


def _near(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=1e-4)


def _layer_norm(view: View, node: Node) -> Node | None:
    """(x − mean) / sqrt(variance + ε), before operator set 17."""
    root = view.made(node.input(1), "Sqrt") if node.op == "Div" else None
    centred = view.made(node.input(0), "Sub")
    total = view.made(root.input(0), "Add") if root else None
    parted = view.split(total) if total else None
    if parted is None or centred is None or parted[1].size != 1:
        return None
    variance, mean = view.made(parted[0], "ReduceMean"), view.made(centred.input(1), "ReduceMean")
    if variance is None or mean is None or not (_is_last(view, variance) and _is_last(view, mean)):
        return None
    square = view.made(variance.input(0), "Pow", "Mul")
    if square is None or mean.input(0) != centred.input(0) or not _is_square_of(view, square, centred):
        return None
    attributes = {"axis": -1, "epsilon": float(parted[1].reshape(-1)[0])}
    return Node("LayerNormalization", node.name, [centred.input(0)], node.outputs, attributes, scope=node.scope)


def _is_last(view: View, mean: Node) -> bool:
    axes = mean.attributes.get("axes") or view.constants.get(mean.input(1), np.zeros(0)).tolist()
    return axes == [-1] and bool(mean.attributes.get("keepdims", 1))


def _is_square_of(view: View, square: Node, centred: Node) -> bool:
    powered = square.op == "Pow" and view.number(square.input(1)) == 2
    if not powered and square.input(0) != square.input(1):
        return False
    other = view.made(square.input(0), "Sub")
    return other is not None and other.inputs == centred.inputs


def _affine(view: View, node: Node) -> Node | None:
    """Give a bare norm the scale and the shift that follow it."""
    parted = view.split(node) if node.op in {"Mul", "Add"} else None
    norm = view.made(parted[0], "LayerNormalization") if parted else None
    if parted is None or norm is None or parted[1].ndim != 1 or not view.alone(parted[0]):
        return None
    place = 1 if node.op == "Mul" else 2
    if len(norm.inputs) != place:
        return None
    constant = next(name for name in node.inputs if name in view.constants)
    return replace(norm, inputs=[*norm.inputs, constant], outputs=node.outputs, name=node.name)


def _group_norm(view: View, node: Node) -> Node | None:
    """Groups as rows of an instance norm, then a scale and a shift a channel."""
    shifted = view.split(node) if node.op == "Add" else None
    scaling = view.made(shifted[0], "Mul") if shifted else None
    scaled = view.split(scaling) if scaling else None
    back = view.made(scaled[0], "Reshape") if scaled else None
    norm = view.made(back.input(0), "InstanceNormalization") if back else None
    apart = view.made(norm.input(0), "Reshape") if norm else None
    if norm is None or apart is None or shifted is None or scaled is None or scaling is None:
        return None
    ones, zeros = (view.constants.get(norm.input(place)) for place in (1, 2))
    if ones is None or zeros is None or not ((ones == 1).all() and (zeros == 0).all()):
        return None
    if any(array.ndim < 2 or array.size != max(array.shape) for array in (scaled[1], shifted[1])):
        return None
    named = [next(name for name in each.inputs if name in view.constants) for each in (scaling, node)]
    weights = [view.keep(f"{name} flat", view.constants[name].reshape(-1)) for name in named]
    attributes = {"num_groups": len(ones), "epsilon": norm.attributes.get("epsilon", 1e-5), NAMED_AFTER: named}
    return Node("GroupNormalization", norm.name, [apart.input(0), *weights], node.outputs, attributes, scope=norm.scope)


def _linear(view: View, node: Node) -> Node | None:
    """Make a product with a weight, and a Gemm, one over rows of outputs × inputs, as torch has it."""
    if node.op not in {"MatMul", "Gemm"} or node.attributes.get("transA"):
        return None
    weight = view.constants.get(node.input(1))
    bias = view.constants.get(node.input(2)) if node.input(2) else None
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or node.input(0) in view.constants:
        return None
    name, alpha, beta = node.input(1), *(node.attributes.get(key, 1.0) for key in ("alpha", "beta"))
    if not node.attributes.get("transB"):
        name = view.keep(f"{name} transposed", weight.T)
    if alpha != 1:
        name = view.keep(f"{name} times {alpha}", view.constants[name] * np.float32(alpha))
    inputs = [node.input(0), name]
    if node.input(2):
        outputs = len(view.constants[name])
        if bias is None or bias.size not in {1, outputs} or bias.reshape(-1).size != max(bias.shape, default=1):
            return None
        spread = np.broadcast_to(bias.reshape(-1) * np.float32(beta), (outputs,))
        plain = bias.shape == (outputs,) and beta == 1
        inputs.append(node.input(2) if plain else view.keep(f"{node.input(2)} for {node.outputs[0]}", spread))
    return Node(
        "Linear",
        node.name,
        inputs,
        node.outputs,
        {NAMED_AFTER: [name for name in node.inputs[1:] if name]},
        scope=node.scope,
    )


def _bias(view: View, node: Node) -> Node | None:
    """Take the sum behind a linear layer or a convolution in as its bias."""
    parted = view.split(node) if node.op == "Add" else None
    layer = view.made(parted[0], "Linear", "Conv") if parted else None
    if parted is None or layer is None or len(layer.inputs) != 2 or not view.alone(parted[0]):
        return None
    weight = view.constants.get(layer.input(1))
    if weight is None or parted[1].size != len(weight) or parted[1].dtype != np.float32:
        return None
    spatial = 0 if layer.op == "Linear" else weight.ndim - 2
    wanted = (len(weight), *[1] * spatial)
    if parted[1].shape[-len(wanted) :] != wanted:
        return None
    constant = next(name for name in node.inputs if name in view.constants)
    named = [*layer.attributes.get(NAMED_AFTER, [layer.input(1)]), constant]
    flat = constant if parted[1].ndim == 1 else view.keep(f"{constant} flat", parted[1].reshape(-1))
    attributes = {**layer.attributes, NAMED_AFTER: named}
    return replace(layer, inputs=[*layer.inputs, flat], outputs=node.outputs, attributes=attributes)


def _embedding(view: View, node: Node) -> Node | None:
    table = view.constants.get(node.input(0)) if node.op == "Gather" else None
    if table is None or table.ndim != 2 or table.dtype != np.float32 or node.attributes.get("axis", 0) != 0:
        return None
    if node.input(1) in view.constants:
        return None
    attributes = {NAMED_AFTER: [node.input(0)]}
    return Node("Embedding", node.name, [node.input(1), node.input(0)], node.outputs, attributes, scope=node.scope)


def _slopes(view: View, node: Node) -> Node | None:
    slope = view.constants.get(node.input(1)) if node.op == "PRelu" else None
    if slope is None or slope.size not in {1, slope.shape[0] if slope.ndim else 1}:
        return None
    flat = view.keep(f"{node.input(1)} flat", slope.reshape(-1))  # (channels, 1, …) in the file
    return replace(node, inputs=[node.input(0), flat], attributes={NAMED_AFTER: [node.input(1)]})


def _factors(view: View, name: str, *, root: bool = True) -> tuple[list[str], float]:
    """Take a product apart into what is multiplied and the number before it."""
    node = view.made(name, "Mul", "Div")
    if node is None or not (root or view.alone(name)):
        return [name], 1.0
    numbers = [view.number(each) for each in node.inputs]
    if node.op == "Div":
        if not numbers[1]:
            return [name], 1.0
        found, factor = _factors(view, node.input(0), root=False)
        return found, factor / numbers[1]
    found, factor = [], 1.0
    for each, number in zip(node.inputs, numbers, strict=True):
        more, times = ([], number) if number is not None else _factors(view, each, root=False)
        found, factor = found + more, factor * times
    return found, factor


def _activation(view: View, node: Node) -> Node | None:
    """Tell GELU, SiLU, hard swish and Mish by their factors, and a hard sigmoid by its only one."""
    if node.op not in {"Mul", "Div"}:
        return None
    factors, factor = _factors(view, node.outputs[0])
    if len(factors) == 1 and _near(factor, 1 / 6) and (source := _shifted_clip(view, factors[0])):
        return Node("HardSigmoid", node.name, [source], node.outputs, {"alpha": 1 / 6, "beta": 0.5})
    if len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        for op, wanted, source_of in _GATES:
            if _near(factor, wanted) and source_of(view, gate) == x:
                return Node(op, node.name, [x], node.outputs)
    return None


def _error_function(view: View, name: str) -> str | None:
    total = view.made(name, "Add")
    parted = view.split(total) if total else None
    error = view.made(parted[0], "Erf") if parted and _near(float(parted[1].reshape(-1)[0]), 1.0) else None
    found, factor = _factors(view, error.input(0)) if error else ([], 0.0)
    return found[0] if len(found) == 1 and _near(factor, math.sqrt(0.5)) else None


def _shifted_clip(view: View, name: str) -> str | None:
    clip = view.made(name, "Clip")
    total = view.made(clip.input(0), "Add") if clip else None
    parted = view.split(total) if total else None
    if clip is None or parted is None or parted[1].size != 1 or float(parted[1].reshape(-1)[0]) != 3:
        return None
    bounds = [clip.attributes.get(key, view.number(clip.input(place))) for place, key in ((1, "min"), (2, "max"))]
    return parted[0] if bounds == [0, 6] else None


def _hard_sigmoid(view: View, name: str) -> str | None:
    node = view.made(name, "HardSigmoid")
    return node.input(0) if node and _near(node.attributes.get("alpha", 0.2), 1 / 6) else None


def _source(view: View, name: str, *ops: str) -> str | None:
    """Follow operators of one input back, the last first."""
    for op in ops:
        node = view.made(name, op)
        if node is None:
            return None
        name = node.input(0)
    return name


_GATES: tuple[tuple[str, float, Callable[[View, str], str | None]], ...] = (
    ("Gelu", 0.5, _error_function),
    ("Silu", 1.0, lambda view, name: _source(view, name, "Sigmoid")),
    ("Mish", 1.0, lambda view, name: _source(view, name, "Tanh", "Softplus")),
    ("HardSwish", 1.0, _hard_sigmoid),
    ("HardSwish", 1 / 6, _shifted_clip),
)
PATTERNS: tuple[Pattern, ...] = (
    _layer_norm, _affine, _affine, _group_norm, _embedding, _linear, _bias, _slopes, _activation, _activation,
)  # fmt: skip
"""Applied twice: the norm's scale and then its shift; a hard sigmoid and then the hard swish that it gates."""
