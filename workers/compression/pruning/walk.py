"""Sends tensors of ids through the graph beside the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from workers.compression.counting import OPS
from workers.compression.layers import arguments
from workers.compression.lifting import op_name
from workers.compression.network import Network
from workers.compression.pruning.ids import IdSpace

Ids = Any
"""A tensor of ids of the value's shape, a tuple of them for several results, None beside a number."""
INPUT = "its channels meet the network's inputs"
OUTPUT = "its channels are the network's outputs"


@dataclass(frozen=True)
class Param:
    """The dotted name of a parameter or buffer."""

    name: str


@dataclass(frozen=True)
class Call:
    """One operator: a node with its arguments by name, whether it calls a module or a function."""

    walk: Walk
    node: fx.Node
    op: str
    given: dict[str, Any]
    output: Any

    @property
    def space(self) -> IdSpace:
        return self.walk.space

    def param(self, key: str) -> str | None:
        """Name the parameter or buffer that stands for this argument, where one does."""
        value = self.given.get(key)
        if isinstance(value, fx.Node) and value.op == "get_attr":
            return str(value.target)
        return value.name if isinstance(value, Param) else None

    def value(self, key: str) -> Any:
        name = self.param(key)
        if name is not None:
            return self.walk.fetch_attr(name)
        return self.walk.resolve(self.given.get(key))

    def ids(self, key: str) -> torch.Tensor:
        ids: torch.Tensor = self.walk.ids_of(self.given[key])
        return ids

    def dimension(self, key: str, axis: int) -> torch.Tensor:
        name = self.param(key)
        assert name is not None
        return self.walk.dimension(name, axis)

    def produces(self, key: str, axis: int) -> None:
        """Note that this dimension of the weight holds the layer's output channels."""
        name = self.param(key)
        assert name is not None
        self.walk.producers[name] = axis

    def tensors(self) -> list[torch.Tensor]:
        """Give the ids of every tensor among the arguments."""
        found: list[torch.Tensor] = []
        for value in self.given.values():
            for item in value if isinstance(value, tuple | list) else [value]:
                if not isinstance(item, fx.Node | Param):
                    continue
                ids = self.walk.ids_of(item)
                found.extend(part for part in (ids if isinstance(ids, tuple) else [ids]) if part is not None)
        return found

    def unknown(self) -> Ids:
        """Freeze whatever meets an operator that no rule covers; one that meets no channels costs nothing."""
        ids = self.tensors()
        if all(self.space.is_constant(part) for part in ids):
            return self.each_output(lambda value: self.space.constant(value.shape, f"{self.node.name!r} is fixed"))
        self.walk.unknown[self.node.name] = self.op
        return self.freeze(ids, f"its channels meet {self.op!r} ({self.node.name}), which no rule covers")

    def freeze(self, ids: list[torch.Tensor], reason: str) -> Ids:
        for part in ids:
            self.space.freeze(part, reason)
        return self.each_output(lambda value: self.space.constant(value.shape, reason))

    def each_output(self, make: Any) -> Ids:
        if isinstance(self.output, tuple | list):
            return tuple(make(value) if isinstance(value, torch.Tensor) else None for value in self.output)
        return make(self.output) if isinstance(self.output, torch.Tensor) else None


class Walk(fx.Interpreter):
    """Runs the network once on one row and keeps the ids of every node, weight dimension and loose tensor."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.module)
        self.space = IdSpace()
        self.node_ids: dict[fx.Node, Ids] = {}
        self.dimensions: dict[tuple[str, int], torch.Tensor] = {}
        self.elements: dict[str, torch.Tensor] = {}
        self.producers: dict[str, int] = {}
        self.unknown: dict[str, str] = {}
        with torch.no_grad():
            self.run(*network.example_inputs(batch=1))
        self._settle_doubles()

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        self.node_ids[n] = self._follow(n, output)
        return output

    def _follow(self, node: fx.Node, output: Any) -> Ids:
        from workers.compression.pruning.rules import follow

        if node.op == "placeholder":
            return self.space.constant(output.shape, INPUT)
        if node.op == "get_attr":
            return None
        if node.op == "output":
            for result in node.all_input_nodes:
                self.space.freeze(self.ids_of(result), OUTPUT)
            return None
        return follow(self._call(node, output))

    def _call(self, node: fx.Node, output: Any) -> Call:
        if node.op == "call_module":
            part = self.fetch_attr(str(node.target))
            tensors = dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))
            # The input stands first, as it does among an operator's arguments.
            given = {"input": node.args[0]} | {key: Param(f"{node.target}.{key}") for key in tensors}
            given |= {key: getattr(part, key) for key in ("groups", "normalized_shape") if hasattr(part, key)}
            return Call(self, node, _module_op(part), given, output)
        if isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - torch has no public name for the class
            return Call(self, node, op_name(node), arguments(node), output)
        return Call(self, node, op_name(node), dict(enumerate(node.args)), output)  # type: ignore[arg-type]

    def ids_of(self, item: fx.Node | Param) -> Ids:
        if isinstance(item, Param):
            return self._element_ids(item.name)
        return self._element_ids(str(item.target)) if item.op == "get_attr" else self.node_ids[item]

    def resolve(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: self.env[node])

    def dimension(self, name: str, axis: int) -> torch.Tensor:
        """Give one id an index of a weight's dimension, the same at every call."""
        if (name, axis) not in self.dimensions:
            self.dimensions[name, axis] = self.space.fresh(self.fetch_attr(name).shape[axis])
        return self.dimensions[name, axis]

    def _element_ids(self, name: str) -> torch.Tensor:
        if name not in self.elements:
            tensor = self.fetch_attr(name)
            if tensor.is_floating_point() or tensor.dtype is torch.bool:
                self.elements[name] = self.space.fresh(*tensor.shape)
            else:
                self.elements[name] = self.space.constant(tensor.shape, f"{name!r} holds positions")
        return self.elements[name]

    def _settle_doubles(self) -> None:
        """Freeze tensors that serve both as a layer's weight and as a plain operand."""
        for (name, _), ids in self.dimensions.items():
            if name in self.elements:
                reason = f"{name!r} is also used outside its layer"
                self.space.freeze(ids, reason)
                self.space.freeze(self.elements[name], reason)


def _module_op(part: nn.Module) -> str:
    known = next((op for kind, op in OPS if isinstance(part, kind)), None)
    return known or type(part).__name__.lower()
