"""What of a graph is known before it runs: constants, branches that are chosen, names for the same value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.onnx_import.graph import Array, Graph, Node, branches, reads
from workers.compression.formats.onnx_import.operators import OPERATORS, compute
from workers.compression.formats.onnx_import.values import Call

_REFUSED = (UnsupportedNetwork, RuntimeError, ValueError, TypeError, IndexError, KeyError, ZeroDivisionError)


def fold(graph: Graph) -> Graph:
    """Compute what needs no input, take the chosen branches in, and drop what no output needs."""
    constants = dict(graph.constants)
    names: dict[str, str] = {}
    nodes: list[Node] = []
    waiting = list(reversed(graph.nodes))
    while waiting:
        node = waiting.pop()
        node = replace(node, inputs=[names.get(name, name) for name in node.inputs])
        if node.op == "Identity":
            names[node.outputs[0]] = node.inputs[0]
        elif node.op == "If" and node.inputs[0] in constants:
            waiting += reversed(_chosen(node, constants))
        else:
            found = _computed(node, constants, graph.opset)
            constants |= found
            if not found:
                nodes.append(_renamed(node, names))
    outputs = [names.get(name, name) for name in graph.outputs]
    return _without_dead_ends(replace(graph, nodes=nodes, constants=constants, outputs=outputs))


def _chosen(node: Node, constants: dict[str, Array]) -> list[Node]:
    """Give the nodes of the branch that a constant condition chooses, under names of their own."""
    which = bool(constants[node.inputs[0]].reshape(-1)[0])
    branch: Graph = node.attributes["then_branch" if which else "else_branch"]
    own = {name for inner in branch.nodes for name in inner.outputs if name} | set(branch.constants)
    table = {name: f"{node.outputs[0]}/{name}" for name in own}
    constants |= {table[name]: value for name, value in branch.constants.items()}
    results = [
        Node("Identity", "", [table.get(inner, inner)], [outer])
        for inner, outer in zip(branch.outputs, node.outputs, strict=True)
    ]
    return [_renamed(inner, table) for inner in branch.nodes] + results


def _renamed(node: Node, table: dict[str, str]) -> Node:
    """Rename what a node reads and writes, within its branches too."""
    if not table:
        return node
    attributes = {
        key: replace(
            value,
            nodes=[_renamed(inner, table) for inner in value.nodes],
            outputs=[table.get(name, name) for name in value.outputs],
        )
        if isinstance(value, Graph)
        else value
        for key, value in node.attributes.items()
    }
    return replace(
        node,
        inputs=[table.get(name, name) for name in node.inputs],
        outputs=[table.get(name, name) for name in node.outputs],
        attributes=attributes,
    )


def _computed(node: Node, constants: dict[str, Array], opset: int) -> dict[str, Array]:
    """Compute a node whose inputs are all constant; nothing where it has others or cannot be computed."""
    names = [name for name in node.inputs if name]
    known = node.op in OPERATORS and not node.domain and not branches(node)
    if not known or not names or any(name not in constants for name in names):
        return {}
    inputs = tuple(constants[name] if name else None for name in node.inputs)
    try:
        with torch.no_grad():
            result = compute(Call(node, inputs, opset, lambda _node, _place: None))
    except _REFUSED:
        return {}
    parts = result if isinstance(result, tuple | list) else (result,)
    return {name: _plain(part) for name, part in zip(node.outputs, parts, strict=False) if name}


def _plain(value: Tensor | Array) -> Array:
    if isinstance(value, Tensor):
        return value.numpy()
    return value if value.dtype != object else np.asarray(value.tolist(), dtype=np.int64)


def _without_dead_ends(graph: Graph) -> Graph:
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        kept.append(node)
        needed |= reads(node)
    constants = {name: value for name, value in graph.constants.items() if name in needed}
    return replace(graph, nodes=kept[::-1], constants=constants)
