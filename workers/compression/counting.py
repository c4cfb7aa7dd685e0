"""Parameters and multiply-accumulates, read off a real run of one row."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from app.domain.model import Layer
from workers.compression.layers import arguments
from workers.compression.lifting import op_name
from workers.compression.network import Network
from workers.compression.quantization.products import is_linear_layer

OPS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.ConvTranspose3d, "conv_transpose3d"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.Linear, "linear"),
    (nn.Embedding, "embedding"),
    (nn.LayerNorm, "layer_norm"),
    (nn.GroupNorm, "group_norm"),
    (_BatchNorm, "batch_norm"),
)
QUANTIZABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)
PRODUCTS = frozenset({"addmm", "mm", "matmul"})
LOOSE = dict.fromkeys(("linear", "embedding", "conv1d", "conv2d", "conv3d"), "weight") | {
    "addmm": "mat2",
    "mm": "mat2",
    "matmul": "other",
}
"""The argument that is the weight, of operators that may stand on a weight which no module of torch's has."""


def count_parameters(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.module.parameters())


def count_nonzero_parameters(network: Network) -> int:
    return sum(int(parameter.count_nonzero()) for parameter in network.module.parameters())


def count_macs(network: Network) -> int:
    """Count for one row; the work of convolutions, linear layers, matrix products and attention."""
    return sum(_trace(network).values())


def find_weights(network: Network) -> dict[str, tuple[fx.Node, str]]:
    """Give the first call of each layer and its weight's dotted name, in the order in which they run.

    A layer is a module, or an operator on a loose weight: it has the name of the module that owns it. A tensor that is
    no parameter is no weight, such as the matrix of a fixed transform.
    """
    found: dict[str, tuple[fx.Node, str]] = {}
    parameters = _parameters(network)
    for node in network.module.graph.nodes:
        weight = _weight_name(network, node)
        if weight is not None and weight in parameters:
            found.setdefault(weight.rpartition(".")[0] or weight, (node, weight))
    return found


def outputs_first(node: fx.Node, weight: torch.Tensor) -> torch.Tensor:
    """View a layer's weight as the layer that a product is has it, [..., outputs, inputs]; others as they are."""
    if node.op == "call_module" or op_name(node) not in PRODUCTS | {"linear"}:
        return weight
    if weight.ndim == 1:
        return weight.unsqueeze(0)
    return weight.transpose(-1, -2) if op_name(node) in PRODUCTS else weight


def _weight_name(network: Network, node: fx.Node) -> str | None:
    if node.op == "call_module":
        part = network.module.get_submodule(str(node.target))
        return f"{node.target}.weight" if any(isinstance(part, kind) for kind, _ in OPS) else None
    if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001
        weight = arguments(node).get(LOOSE.get(op_name(node), ""))
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            return str(weight.target)
    return None


def _parameters(network: Network) -> dict[str, nn.Parameter]:
    """Give the parameters by all their names; tied ones have several."""
    return dict(network.module.named_parameters(remove_duplicate=False))


def describe_layers(network: Network) -> tuple[Layer, ...]:
    """List the layers that own a weight, in the order in which they run, as if none were prunable."""
    macs, parameters = _trace(network), _parameters(network)
    layers = []
    for name, (node, weight) in find_weights(network).items():
        if node.op == "call_module":
            part = network.module.get_submodule(name)
            op = next(op for kind, op in OPS if isinstance(part, kind))
            own = list(part.parameters())
        else:
            part, op = None, "linear" if op_name(node) in PRODUCTS else op_name(node)
            own = [parameters[str(n.target)] for n in node.all_input_nodes if n.target in parameters]
        layers.append(
            Layer(
                name=name,
                op=op,
                weight_shape=tuple(outputs_first(node, parameters[weight]).shape),
                parameters=sum(parameter.numel() for parameter in own),
                macs=macs[name if part is not None else node.name],
                prunable=False,
                quantizable=isinstance(part, QUANTIZABLE) or is_linear_layer(network.module, node),
            )
        )
    return tuple(layers)


def _trace(network: Network) -> defaultdict[str, int]:
    """Count multiply-accumulates of one row by module; a node that calls none counts under its own name."""
    counter = _Counter(network.module)
    with torch.no_grad():
        counter.run(*network.example_inputs(batch=1))
    return defaultdict(int, {name: macs // network.rows for name, macs in counter.macs.items()})


class _Counter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.macs: defaultdict[str, int] = defaultdict(int)

    def run_node(self, n: fx.Node) -> Any:
        arguments_, _ = self.fetch_args_kwargs_from_env(n)
        output = super().run_node(n)
        if n.op == "call_module":
            part = self.fetch_attr(str(n.target))
            if isinstance(part, _ConvNd | nn.Linear):
                self.macs[str(n.target)] += _weighted(
                    part.weight, arguments_[0], output, transposed=_is_transposed(part)
                )
        elif n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload):  # noqa: SLF001
            self.macs[n.name] += _functional(op_name(n), self._values(n), output)
        return output

    def _values(self, node: fx.Node) -> dict[str, Any]:
        return {
            key: self.env[value] if isinstance(value, fx.Node) and value in self.env else value
            for key, value in arguments(node).items()
        }


def _is_transposed(part: nn.Module) -> bool:
    return isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)


def _weighted(weight: torch.Tensor, source: torch.Tensor, output: torch.Tensor, *, transposed: bool = False) -> int:
    """Each output element (of a transposed convolution: each input element) meets one row of the weight."""
    return (source if transposed else output).numel() * math.prod(weight.shape[1:])


def _functional(name: str, values: dict[str, Any], output: Any) -> int:
    if name in {"conv1d", "conv2d", "conv3d", "linear"}:
        return _weighted(values["weight"], values["input"], output)
    if name.startswith("conv_transpose") or name == "convolution":
        transposed = bool(values.get("transposed", True))
        return _weighted(values["weight"], values["input"], output, transposed=transposed)
    if name in {"matmul", "mm", "bmm"}:
        left = values["self"]
        return int(output.numel()) * int(left.shape[-1])
    if name in {"addmm", "baddbmm"}:
        left = values["mat1"] if name == "addmm" else values["batch1"]
        return int(output.numel()) * int(left.shape[-1])
    if name == "scaled_dot_product_attention":
        query, key, value = values["query"], values["key"], values["value"]
        scores = math.prod(query.shape[:-1]) * int(key.shape[-2])
        return scores * (int(query.shape[-1]) + int(value.shape[-1]))
    return 0
