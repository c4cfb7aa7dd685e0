"""The module that runs a graph node by node, for torch to trace."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.onnx_import.graph import Graph, Node
from workers.compression.formats.onnx_import.operators import compute
from workers.compression.formats.onnx_import.placement import Placement
from workers.compression.formats.onnx_import.values import Call, Value, as_tensor

Environment = dict[str, Value]


class Interpreter(nn.Module):
    """Runs ``graph``; its arguments are called ``names``, its weights stand where ``placement`` says.

    With ``frees_batch``, what the file fixes at one row may be any number of them.
    """

    forward: Callable[..., Tensor | tuple[Tensor, ...]]

    def __init__(self, graph: Graph, placement: Placement, names: Sequence[str], *, frees_batch: bool) -> None:
        super().__init__()
        placement.fill(self)
        self._graph, self._placement, self._frees_batch = graph, placement, frees_batch
        self.forward = _with_arguments(self._run, names)

    def _run(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        environment: Environment = dict(self._graph.constants)
        environment |= {given.name: tensor for given, tensor in zip(self._graph.inputs, inputs, strict=True)}
        self._evaluate(self._graph, environment)
        outputs = [environment[name] for name in self._graph.outputs]
        tensors = [value if isinstance(value, Tensor) else as_tensor(value) for value in outputs]
        return tensors[0] if len(tensors) == 1 else tuple(tensors)

    def _evaluate(self, graph: Graph, environment: Environment) -> None:
        for node in graph.nodes:
            if node.op == "If":
                self._branch(node, environment)
                continue
            inputs = tuple(environment[name] if name else None for name in node.inputs)
            result = compute(Call(node, inputs, graph.opset, self._constant, self._frees_batch))
            parts = result if isinstance(result, tuple | list) else (result,)
            environment |= {name: part for name, part in zip(node.outputs, parts, strict=False) if name}

    def _branch(self, node: Node, environment: Environment) -> None:
        """Run the branch that sizes choose."""
        condition = environment[node.inputs[0]]
        if not isinstance(condition, np.ndarray):
            raise UnsupportedNetwork(f"{node.label} chooses by the values of an input.")
        branch: Graph = node.attributes["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
        inner = environment | branch.constants
        self._evaluate(branch, inner)
        environment |= {outer: inner[name] for outer, name in zip(node.outputs, branch.outputs, strict=True)}

    def _constant(self, node: Node, place: int) -> Tensor | None:
        path = self._placement.path(node, place)
        found: Tensor | None = operator.attrgetter(path)(self) if path is not None else None
        return found


def _with_arguments(
    run: Callable[..., Tensor | tuple[Tensor, ...]], names: Sequence[str]
) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """Give a function arguments of these names, which become those of the traced network."""
    named = partial(run)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    return named
