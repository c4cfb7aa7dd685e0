"""Where each constant stands in the module that runs the graph: a layer's under its name, others by themselves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from workers.compression.formats.onnx_import.graph import Array, Graph, Node
from workers.compression.formats.onnx_import.names import Names, told
from workers.compression.formats.onnx_import.rewriting import NAMED_AFTER

ROLES: dict[str, tuple[str, ...]] = {
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    "Conv": ("weight", "bias"),
    "ConvTranspose": ("weight", "bias"),
    "Embedding": ("weight",),
    "GroupNormalization": ("weight", "bias"),
    "InstanceNormalization": ("weight", "bias"),
    "LayerNormalization": ("weight", "bias"),
    "Linear": ("weight", "bias"),
    "PRelu": ("weight",),
    "RMSNormalization": ("weight",),
}
"""What inputs are from the second on, as attributes of the ``nn`` module that is called so."""
_LARGEST_PARAMETER = 1e4
"""A loose constant beyond it is no weight, but a mask."""


@dataclass
class Placement:
    """``tensors`` hold every constant by its dotted name; ``places`` say where a node's input stands."""

    tensors: dict[str, nn.Parameter | Tensor] = field(default_factory=dict)
    places: dict[tuple[int, int], str] = field(default_factory=dict)
    loose: dict[str, str] = field(default_factory=dict)

    def path(self, node: Node, place: int) -> str | None:
        return self.places.get((id(node), place)) or self.loose.get(node.input(place))

    def fill(self, module: nn.Module) -> None:
        """Register all tensors in a module, under modules without any code."""
        for path, tensor in self.tensors.items():
            *parents, leaf = path.split(".")
            owner = module
            for part in parents:
                if part not in owner._modules:  # noqa: SLF001 - getattr would also find parameters
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(leaf, tensor)
            else:
                owner.register_buffer(leaf, tensor)


def place(graph: Graph) -> Placement:
    """Give every constant its place; each layer owns its tensors, whatever the file shares, but for matrices."""
    placement, names = Placement(), Names()
    owners: dict[tuple[str, ...], str] = {}
    shared: dict[bytes, nn.Parameter] = {}
    for node in graph.all_nodes():
        roles = dict(enumerate(ROLES.get(node.op, ()), start=1))
        own = {at: node.input(at) for at in roles if node.input(at) in graph.constants}
        if not own:
            continue
        # Exporters let equal vectors of different layers be one; a matrix stands twice where a layer is called twice.
        vectors = all(graph.constants[name].ndim < 2 for name in own.values())
        key = (node.op, *own.values(), *([node.outputs[0]] if vectors else []))
        if key not in owners:
            owners[key] = names.owner(node, node.attributes.get(NAMED_AFTER, list(own.values())))
        for at, constant in own.items():
            path = placement.places[id(node), at] = f"{owners[key]}.{roles[at]}"
            if path not in placement.tensors:
                placement.tensors[path] = _tensor(graph.constants[constant], shared, trained="running" not in roles[at])
    for node in graph.all_nodes():
        for at, name in enumerate(node.inputs):
            array = graph.constants.get(name)
            if array is None or (id(node), at) in placement.places or name in placement.loose or not _is_large(array):
                continue
            path = placement.loose[name] = names.tensor(name)
            trained = told(name) and array.dtype == np.float32 and bool((np.abs(array) < _LARGEST_PARAMETER).all())
            placement.tensors[path] = _tensor(array, shared, trained=trained)
    return placement


def _is_large(array: Array) -> bool:
    return array.size > 1


def _tensor(array: Array, shared: dict[bytes, nn.Parameter], *, trained: bool) -> nn.Parameter | Tensor:
    """Make a tensor of its own; a matrix that stands twice in the network is one parameter."""
    tensor = torch.from_numpy(np.array(array))
    if not trained or not tensor.is_floating_point():
        return tensor
    if array.ndim < 2 or array.min() == array.max():
        return nn.Parameter(tensor)
    digest = hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()
    return shared.setdefault(digest, nn.Parameter(tensor))
