"""SmoothQuant (Xiao 2023): scale moves from activations, which share one range, into weights, which have many."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from workers.compression.lifting import op_name
from workers.compression.quantization.calibration import Inputs

_PASSING = frozenset({"relu", "dropout"})
"""Operators that a positive scale passes through unchanged."""


def smooth(module: fx.GraphModule, batches: Sequence[Inputs], alpha: float) -> tuple[fx.GraphModule, list[str]]:
    """Give a copy that computes the same with evener activations, and the linear layers whose inputs these are.

    s_j = max|x_j|^α / max_i|w_ij|^(1−α), eq. 4: what gives x_j is divided by s_j, what reads it is multiplied.
    A layer norm or a linear layer can be divided where nothing but linear layers reads what it gives.
    """
    smoothed = copy.deepcopy(module)
    groups = _groups(smoothed)
    if not groups:
        return smoothed, []
    reach = _Reach(smoothed, {readers[0].args[0] for _, readers in groups})
    with torch.no_grad():
        for inputs in batches:
            reach.run(*inputs)
        for giver, readers in groups:
            layers = [smoothed.get_submodule(str(node.target)) for node in readers]
            _migrate(smoothed.get_submodule(giver), layers, reach.most[readers[0].args[0]], alpha)
    return smoothed, sorted({str(node.target) for _, readers in groups for node in readers})


def _migrate(giver: nn.Module, readers: list[nn.Module], activations: Tensor, alpha: float) -> None:
    weights = torch.stack([reader.get_parameter("weight").abs().amax(0) for reader in readers]).amax(0)
    scale = activations.pow(alpha) / weights.pow(1 - alpha)
    # A channel that is always zero, or that nothing reads, has nothing to move.
    scale = torch.where((activations > 0) & (weights > 0), scale, 1.0)
    rows = scale[:, None] if isinstance(giver, nn.Linear) else scale
    giver.get_parameter("weight").div_(rows)
    if giver.bias is not None:
        giver.get_parameter("bias").div_(scale)
    for reader in readers:
        reader.get_parameter("weight").mul_(scale)


def _groups(module: fx.GraphModule) -> list[tuple[str, list[fx.Node]]]:
    """List each layer that can be divided with all calls of linear layers that read it."""
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    layers = {node: module.get_submodule(str(node.target)) for node in calls}
    targets = [str(node.target) for node in calls]
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in calls:
        if isinstance(layers[node], nn.Linear) and isinstance(node.args[0], fx.Node):
            found.setdefault(node.args[0], []).append(node)
    groups = []
    for source, readers in found.items():
        giver = _giver(source, layers)
        alone = len(source.users) == len(readers)
        once = all(targets.count(str(node.target)) == 1 for node in (*readers, giver) if node is not None)
        if giver is not None and alone and once:
            groups.append((str(giver.target), readers))
    return groups


def _giver(source: fx.Node, layers: dict[fx.Node, nn.Module]) -> fx.Node | None:
    """Go back from a value to the layer that gives it, through what a scale passes through."""
    while source not in layers or isinstance(layers[source], nn.Dropout):
        passing = source in layers or (source.op == "call_function" and op_name(source) in _PASSING)
        before = source.args[0] if passing and source.args else None
        if not isinstance(before, fx.Node) or len(before.users) > 1:
            return None
        source = before
    layer = layers[source]
    if isinstance(layer, nn.LayerNorm):
        return source if layer.weight is not None and layer.weight.dim() == 1 else None
    return source if isinstance(layer, nn.Linear) else None


class _Reach(fx.Interpreter):
    """Keeps max|x| of some values by their last dimension."""

    def __init__(self, module: fx.GraphModule, nodes: set[Any]) -> None:
        super().__init__(module)
        self.most: dict[Any, Tensor] = {}
        self.nodes = nodes

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.nodes:
            most = value.abs().flatten(0, -2).amax(0)
            self.most[n] = torch.maximum(self.most[n], most) if n in self.most else most
        return value
