"""Layers whose single weights can go: modules, and products with a weight that no module of torch's has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from app.domain.errors import NothingToPrune
from app.domain.steps.prune import PruneSpec
from workers.compression.counting import find_weights, outputs_first
from workers.compression.inference import output_batches
from workers.compression.lifting import op_name
from workers.compression.network import Network
from workers.compression.quantization.products import adopt_products, is_linear_layer
from workers.compression.step import Context

WANDA_ROWS = 1024


@dataclass(frozen=True)
class Weights:
    """What one layer multiplies with: a view, so that zeros in it are the network's."""

    weight: torch.Tensor
    """Outputs first, but of transposed convolutions."""
    inputs: int
    """The dimension along which inputs stand."""
    linear: bool
    """Whether it is [outputs, inputs] and meets each row of its input, so that wanda can score it."""


Layers = dict[str, Weights]


def prunable_layers(network: Network, spec: PruneSpec) -> tuple[Layers, dict[str, str]]:
    """List the layers whose weights may go, and why those of the others may not.

    Raises NothingToPrune where there are none.
    """
    found, reasons = {}, {}
    for name, layer in _layers(network):
        if any(fnmatchcase(name, pattern) for pattern in spec.exclude):
            reasons[name] = "it is excluded"
        elif spec.criterion == "wanda" and not layer.linear:
            reasons[name] = "wanda scores linear layers only"
        elif (kept := spec.kept) and layer.weight.shape[layer.inputs] % kept[1]:
            reasons[name] = f"its {layer.weight.shape[layer.inputs]} inputs are no multiple of {kept[1]}"
        else:
            found[name] = layer
    if not found:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise NothingToPrune(f"No weight can go. {told or 'There is no convolution or linear layer.'}")
    return found, reasons


def _layers(network: Network) -> Iterator[tuple[str, Weights]]:
    """Give every layer with its name, those that are modules first; a weight that is shared is the first one's."""
    seen = set()
    for name, part in network.module.named_modules():
        if isinstance(part, _ConvNd | nn.Linear):
            seen |= {name, id(part.weight)}
            axis = 0 if isinstance(part, _ConvTransposeNd) else 1
            yield name, Weights(part.weight.detach(), axis, isinstance(part, nn.Linear))
    for name, (node, path) in find_weights(network).items():
        weight = network.module.get_parameter(path)
        if node.op == "call_module" or op_name(node) == "embedding" or seen & {name, id(weight)}:
            continue
        seen.add(id(weight))
        viewed = outputs_first(node, weight.detach())
        axis = 1 if op_name(node).startswith("conv") else viewed.ndim - 1
        yield name, Weights(viewed, axis, is_linear_layer(network.module, node))


def input_norms(network: Network, names: list[str], context: Context) -> dict[str, torch.Tensor]:
    """Take the Euclidean norm of each input of these linear layers over calibration rows."""
    watched = network.clone()
    # What is read by a product can be watched where a module does it; of several with one name the first is the layer.
    paths = {name: path for path, name in reversed(adopt_products(watched.module).items())}
    sums: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].detach().double().flatten(0, -2).square().sum(dim=0)
            sums[name] = sums[name] + squares if name in sums else squares

        return add

    own = {name for name, part in network.module.named_modules() if isinstance(part, nn.Linear)}
    for name in names:
        path = name if name in own else paths[name]
        watched.module.get_submodule(path).register_forward_pre_hook(watch(name))
    rows = np.arange(min(WANDA_ROWS, context.data.rows("calibration")))
    for _ in output_batches(watched, context.data, "calibration", rows, torch.device("cpu")):
        pass  # what layers read is all that is wanted: outputs of a language model on all rows would fill the memory
    return {name: found.sqrt().float() for name, found in sums.items()}
