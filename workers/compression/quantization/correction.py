"""Bias correction: what rounding shifts the mean of each output channel is taken out of the bias (Nagel 2019, 4.2)."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from workers.compression.quantization import kernels
from workers.compression.quantization.calibration import Inputs
from workers.compression.quantization.simulation import Rounded, Simulation, lockstep


def correct_biases(
    module: GraphModule, weights: Rounded, inputs: Inputs, layers: Mapping[str, list[Node]]
) -> dict[str, Tensor]:
    """Give new biases, by name, under which each layer's mean over the rows is that of the float network.

    E[y] − E[ŷ] is measured layer by layer in the order of the graph, ŷ inside the network that is corrected up to
    there. Layers without a bias of their own stay as they are.
    """
    corrected: dict[str, Tensor] = {}
    rounded = Simulation(module, weights, corrected)
    wanted = set(chain.from_iterable(layers.values()))

    def visit(node: Node, exact: Any, value: Any) -> Any:
        bias = _own_bias(node) if node in wanted else None
        if bias is None:
            return value
        corrected[str(bias.target)] = rounded.env[bias] + _mean(node, exact) - _mean(node, value)
        rounded.env[bias] = corrected[str(bias.target)]
        return rounded.compute(node)

    lockstep(rounded, inputs, visit)
    return corrected


def _own_bias(node: Node) -> Node | None:
    """Give a layer's bias where no other layer reads it."""
    bias = node.args[2] if len(node.args) > 2 else None
    return bias if isinstance(bias, Node) and kernels.is_parameter(bias) and len(bias.users) == 1 else None


def _mean(node: Node, value: Tensor) -> Tensor:
    """Average over all but output channels, which a linear layer has last and a convolution behind the rows."""
    channel = value.dim() - 1 if node.target in kernels.LINEAR else 1
    return value.mean([axis for axis in range(value.dim()) if axis != channel])
