"""A network's float graph with the rounding of its annotations, so that a choice of layers can be tried in a run.

What runs is what the converted graph computes; only that weights stand quantized already, and nothing is rebuilt.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
)

from workers.compression.quantization import kernels
from workers.compression.quantization.calibration import Inputs
from workers.compression.quantization.quantizer import ANNOTATION
from workers.compression.quantization.scales import WeightSpec, round_weight

BIAS_MAX = 2**31 - 1
Rounded = dict[str, tuple[Tensor, Tensor]]
"""Scales and rounded values of weights, by name."""


def round_activation(value: Tensor, scale: float, zero: int) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(value, scale, zero, 0, 255)


class Simulation(fx.Interpreter):
    """Runs the graph as it is annotated.

    Weights that were quantized once are kept in ``weights`` by name, with their scales, for other runs of the same
    graph; ``biases`` stand in for those of the graph.
    """

    def __init__(self, module: GraphModule, weights: Rounded, biases: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(module)
        self.weights = weights
        self.biases = {} if biases is None else biases

    def run_node(self, n: Node) -> Any:
        return self.finish(n, self.compute(n))

    def compute(self, n: Node) -> Any:
        """Compute a node on what its annotation makes of its inputs."""
        if n.op == "get_attr" and str(n.target) in self.biases:
            return self.biases[str(n.target)]
        annotation: QuantizationAnnotation | None = n.meta.get(ANNOTATION)
        inputs = annotation.input_qspec_map if annotation else {}
        if not inputs:
            return super().run_node(n)
        whole = {source: self.env[source] for source in inputs}
        try:
            self.env.update({source: self._rounded(source, inputs) for source in inputs})
            return super().run_node(n)
        finally:
            self.env.update(whole)

    def finish(self, n: Node, value: Any) -> Any:
        """Round what a node gives where its annotation says so."""
        annotation: QuantizationAnnotation | None = n.meta.get(ANNOTATION)
        spec = annotation.output_qspec if annotation else None
        return round_activation(value, spec.scale, spec.zero_point) if spec is not None else value

    def _rounded(self, source: Node, inputs: Mapping[Node, Any]) -> Tensor:
        value, spec = self.env[source], inputs[source]
        if isinstance(spec, FixedQParamsQuantizationSpec):
            return round_activation(value, spec.scale, spec.zero_point)
        if isinstance(spec, WeightSpec):
            return self._weight(source, spec)
        assert isinstance(spec, DerivedQuantizationSpec)
        # A bias is an integer in units of its sums: s_x · s_w.
        first, weight = (edge[0] for edge in spec.derived_from if isinstance(edge, tuple))
        scales = inputs[first].scale * inputs[weight].scales
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(value, scales, zeros, 0, -BIAS_MAX - 1, BIAS_MAX)

    def _weight(self, source: Node, spec: WeightSpec) -> Tensor:
        scales, rounded = self.weights.get(str(source.target), (None, None))
        if rounded is None or scales is None or not torch.equal(scales, spec.scales):
            rounded = round_weight(self.env[source], spec.scales, int(spec.quant_max or 0))
            self.weights[str(source.target)] = spec.scales, rounded
        return rounded


def lockstep(rounded: Simulation, inputs: Inputs, visit: Callable[[Node, Any, Any], Any]) -> None:
    """Run the float graph and the rounded one side by side.

    ``visit`` sees each node with its exact value and with the rounded one before it is quantized itself, and gives
    what to go on with in place of the latter.
    """
    exact = fx.Interpreter(rounded.module)
    with torch.no_grad():
        for interpreter in (exact, rounded):
            interpreter.env = {}
            interpreter.args_iter = iter(inputs)
        for node in exact.graph.nodes:
            if node.op == "output":
                break
            exact.env[node] = exact.run_node(node)
            value = visit(node, exact.env[node], rounded.compute(node))
            rounded.env[node] = rounded.finish(node, value)
            for interpreter in (exact, rounded):
                for dead in interpreter.user_to_last_uses.get(node, []):
                    del interpreter.env[dead]


def layer_calls(graph: fx.Graph) -> dict[str, list[Node]]:
    """Give the calls of each layer that is annotated, by its dotted name, in graph order."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.target in kernels.WEIGHTED | kernels.EMBEDDING and ANNOTATION in node.meta:
            found.setdefault(kernels.layer_name(node), []).append(node)
    return found
