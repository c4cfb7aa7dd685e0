"""What flows through the graph while it is traced, and how one operator asks for its arguments.

A value is a tensor, or it is known on the host: a constant, or sizes. Sizes are arrays of objects, numbers and
``SymInt``, and never become tensors unless an operator computes with them beside tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.onnx_import.graph import Array, Node

Value = Tensor | Array
Size = Any
"""A number or a ``SymInt``, which most of torch's annotations leave out though its functions take it."""
Result = Value | tuple[Value, ...]


@dataclass
class Call:
    """One operator with its inputs; ``constant`` gives what stands registered for an input, by its place."""

    node: Node
    inputs: tuple[Value | None, ...]
    opset: int
    constant: Callable[[Node, int], Tensor | None]
    frees_batch: bool = False
    """Whether the file's batch of one row may be any number of them."""

    def given(self, place: int) -> bool:
        return place < len(self.inputs) and self.inputs[place] is not None

    def value(self, place: int) -> Value:
        value = self.inputs[place] if place < len(self.inputs) else None
        if value is None:
            raise UnsupportedNetwork(f"{self.node.label} lacks its input {place}.")
        return value

    def tensor(self, place: int) -> Tensor:
        """Give an input as a tensor, a parameter or a buffer where it is constant."""
        value = self.value(place)
        if isinstance(value, Tensor):
            return value
        registered = self.constant(self.node, place)
        return as_tensor(value) if registered is None else registered

    def optional(self, place: int) -> Tensor | None:
        return self.tensor(place) if self.given(place) else None

    def operand(self, place: int) -> Any:
        """Give an input of an elementwise operator: a number where it is one and has no more dimensions than needed."""
        value = self.value(place)
        if isinstance(value, Tensor) or value.size != 1:
            return self.tensor(place)
        ranks = [other.dim() for other in self.inputs if isinstance(other, Tensor)]
        return value.reshape(-1)[0] if value.dtype == object else (
            value.item() if value.ndim <= max(ranks, default=0) else self.tensor(place)
        )  # fmt: skip

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attributes.get(name, default)

    def sizes(self, name: str, place: int) -> list[Size] | None:
        """Give numbers that are an attribute in old operator sets and an input in new ones."""
        if name in self.node.attributes:
            listed = self.node.attributes[name]
            return list(listed) if isinstance(listed, list) else [listed]
        if not self.given(place):
            return None
        value = self.value(place)
        if isinstance(value, Tensor):
            raise UnsupportedNetwork(
                f"{self.node.label} takes {name} that depend on the input's values.",
                hint="Export with fixed sizes, or with sizes that follow from the inputs' shapes.",
            )
        return [each if value.dtype == object else each.item() for each in value.reshape(-1)]

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Give fixed integers, such as axes."""
        found = self.sizes(name, place)
        return None if found is None else [int(each) for each in found]


Operator = Callable[[Call], Result]
Table = Mapping[str, Operator]


def on_host(value: Any) -> Array:
    """Make an array of objects of a size or of nested lists of them."""
    if isinstance(value, np.ndarray):
        return value
    array = np.empty((), dtype=object)
    array[()] = value
    return array


def as_tensor(value: Array) -> Tensor:
    """Make a tensor of what is known on the host; sizes become whole numbers."""
    if value.dtype != object:
        return torch.from_numpy(np.array(value))
    parts = [torch.scalar_tensor(each, dtype=_dtype(each)) for each in value.reshape(-1)]
    if not parts:
        return torch.zeros(value.shape, dtype=torch.int64)
    return torch.stack(parts).reshape(value.shape)


def _dtype(number: Any) -> torch.dtype:
    if isinstance(number, bool | torch.SymBool):
        return torch.bool
    return torch.float32 if isinstance(number, float | torch.SymFloat) else torch.int64
