"""Where quantize and dequantize pairs go, so that ONNX Runtime fuses every one of them into an integer kernel.

ONNX Runtime replaces ``DequantizeLinear → operator → QuantizeLinear`` by the operator's integer form: convolutions
and poolings need a pair on both sides, sums one on each input and on the output, a linear layer only on its input
(its result may leave as float). An activation that only clips sits inside the pair, never between two. A pair
that nothing fuses costs time and accuracy, so an operator without an integer form gets none.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpecBase,
    Quantizer,
)

from workers.compression.quantization import kernels
from workers.compression.quantization.scales import WeightSpec, least_scales, weight_scales, weight_spec

ANNOTATION = "quantization_annotation"
"""The key in ``Node.meta`` under which torchao looks."""

Parameters = Mapping[str, tuple[float, int]]
"""Scale and zero point of values, by the name of the graph's node that gives them."""


class IntegerQuantizer(Quantizer):  # type: ignore[misc]
    """Weights symmetric int8 an output channel, activations asymmetric uint8 a tensor, biases int32.

    ``parameters`` fixes the scale of every activation. Layers and operators named in ``floats`` get no pair of their
    own; ``bits`` narrows the weights of single layers. ``biases`` stand in for those of the graph, by name.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        reduce_range: bool,
        symmetric: bool,
        floats: AbstractSet[str],
        bits: Mapping[str, int],
        biases: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.bound = kernels.weight_bound(reduce_range=reduce_range)
        self.parameters, self.symmetric, self.floats = parameters, symmetric, floats
        self.bits, self.biases = bits, biases

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate anew in graph order, whatever stood there; the graph comes back too, as NNCF wants it."""
        for node in model.graph.nodes:
            node.meta.pop(ANNOTATION, None)
        integer: set[Node] = set()
        for node in model.graph.nodes:
            rule = _RULES.get(node.target) if node.op == "call_function" else None
            if rule is not None and ANNOTATION not in node.meta and kernels.layer_name(node) not in self.floats:
                rule(self, node, integer)
        return model

    def validate(self, model: GraphModule) -> None:
        """Accept every annotation: they are all this class's own."""

    def _annotate_convolution(self, node: Node, integer: set[Node]) -> None:
        if kernels.is_parameter(node.args[1]):
            self._annotate_output(node, self._weighted_inputs(node), integer)

    def _annotate_linear(self, node: Node, integer: set[Node]) -> None:
        # Logits and whatever else leaves as float stay exact; an integer consumer asks for its own pair.
        if not kernels.is_parameter(node.args[1]):
            return
        if kernels.runs_as_gemm(node) and kernels.cut_off(node):
            # ONNX Runtime takes a clip into a Gemm before it looks for integers, unless the clip's own are behind it.
            self._annotate_output(node, self._weighted_inputs(node), integer)
        else:
            _set(node, self._weighted_inputs(node), None)

    def _annotate_embedding(self, node: Node, integer: set[Node]) -> None:  # noqa: ARG002 - likewise
        # Bytes are looked up and dequantized as they leave: one scale a table, as the kernel moves values only.
        weight = node.args[0]
        if kernels.is_parameter(weight):
            assert isinstance(weight, Node)
            spec = self._activation(weight)
            _set(node, {weight: spec}, spec)

    def _annotate_sum(self, node: Node, integer: set[Node]) -> None:
        # A number among the operands, or a float one, leaves no integer form.
        if all(isinstance(value, Node) for value in node.args[:2]) and not node.kwargs:
            self._annotate_when_integer(node, integer)

    def _annotate_mean(self, node: Node, integer: set[Node]) -> None:
        # Over all spatial dimensions it is a global pool; other means have no integer kernel.
        source, dims = node.args[:2]
        assert isinstance(source, Node)
        rank = source.meta["val"].dim()
        if rank > 2 and isinstance(dims, (list, tuple)) and {int(str(d)) % rank for d in dims} == set(range(2, rank)):
            self._annotate_when_integer(node, integer)

    def _annotate_when_integer(self, node: Node, integer: set[Node]) -> None:
        inputs = node.all_input_nodes
        if all(value in integer or self._clips_integers(value, integer) for value in inputs):
            self._annotate_output(node, {value: self._activation(value) for value in inputs}, integer)

    def _clips_integers(self, value: Node, integer: set[Node]) -> bool:
        # Where others read what it clips, the clip is an operator of its own: whoever wants its bytes asks for them.
        return kernels.clips(value) and value.args[0] in integer and value.name not in self.floats

    def _annotate_moving(self, node: Node, integer: set[Node]) -> None:
        source = node.args[0]
        if isinstance(source, Node) and source in integer and kernels.moves(node):
            spec = self._activation(source)
            _set(node, {source: spec}, spec)
            integer.add(node)

    def _annotate_output(self, node: Node, inputs: dict[Node, QuantizationSpecBase], integer: set[Node]) -> None:
        """Put the pair behind ``node``, or behind the activation that clips it and may be an integer."""
        behind = clipped(node)
        if kernels.layer_name(behind) in self.floats:
            behind = node
        if behind is not node:
            _set(node, inputs, None)
            node, inputs = behind, {}
        _set(node, inputs, self._activation(node))
        integer.add(node)

    def _activation(self, value: Node) -> FixedQParamsQuantizationSpec:
        source = moved_from(value)
        scale, zero = self.parameters[source.name]
        symmetric = self.symmetric and not kernels.clips(source)
        return FixedQParamsQuantizationSpec(
            dtype=torch.uint8,
            scale=scale,
            zero_point=zero,
            quant_min=0,
            quant_max=255,
            qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
        )

    def _weight(self, weight: Node, layer: str) -> WeightSpec:
        bits = self.bits.get(layer)
        bound = self.bound if bits is None else min(self.bound, 2 ** (bits - 1) - 1)
        scales = weight_scales(_value(weight), bound)
        for call in weight.users:
            bias = _integer_bias(call)
            if bias is not None:
                value = self.biases.get(str(bias.target), _value(bias))
                scales = torch.maximum(scales, least_scales(value, self._activation(cast("Node", call.args[0])).scale))
        return weight_spec(scales, bound)

    def _weighted_inputs(self, node: Node) -> dict[Node, QuantizationSpecBase]:
        source, weight = node.args[:2]
        assert isinstance(source, Node)
        assert isinstance(weight, Node)
        inputs: dict[Node, QuantizationSpecBase] = {
            source: self._activation(source),
            weight: self._weight(weight, kernels.layer_name(node)),
        }
        bias = _integer_bias(node)
        if bias is not None:
            inputs[bias] = DerivedQuantizationSpec(
                derived_from=[(source, node), (weight, node)],
                derive_qparams_fn=_bias_parameters,
                dtype=torch.int32,
                quant_min=-(2**31),
                quant_max=2**31 - 1,
                qscheme=torch.per_channel_symmetric,
                ch_axis=0,
            )
        return inputs


def clipped(node: Node) -> Node:
    """Give the activation that alone reads ``node`` and only clips it, else ``node`` itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and kernels.clips(users[0]) else node


def moved_from(value: Node) -> Node:
    """Follow a value back through operators that only move it."""
    while kernels.moves(value) and isinstance(value.args[0], Node):
        value = value.args[0]
    return value


def _integer_bias(node: Node) -> Node | None:
    """Give the bias that a layer adds to its sums as an integer."""
    bias = node.args[2] if len(node.args) > 2 else None
    if node.target not in kernels.WEIGHTED or not kernels.is_parameter(bias):
        return None
    # What becomes a product and a sum takes its bias as float.
    summed = node.target in kernels.LINEAR and not kernels.runs_as_gemm(node)
    return None if summed else cast("Node", bias)


def _value(parameter: Node) -> Tensor:
    module = parameter.graph.owning_module
    assert module is not None
    owner, _, leaf = str(parameter.target).rpartition(".")
    value: Tensor = getattr(module.get_submodule(owner), leaf)
    return value.detach()


def _bias_parameters(observers: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the scale of the sums, s_bias = s_input · s_weight, and its zero points: none."""
    scale = observers[0].calculate_qparams()[0] * observers[1].calculate_qparams()[0]
    return scale, torch.zeros_like(scale, dtype=torch.int32)


def _set(node: Node, inputs: dict[Node, QuantizationSpecBase], output: QuantizationSpecBase | None) -> None:
    node.meta[ANNOTATION] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)


_Rule = Callable[[IntegerQuantizer, Node, set[Node]], None]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(kernels.CONVOLUTIONS, IntegerQuantizer._annotate_convolution),  # noqa: SLF001
    **dict.fromkeys(kernels.LINEAR, IntegerQuantizer._annotate_linear),  # noqa: SLF001
    **dict.fromkeys(kernels.EMBEDDING, IntegerQuantizer._annotate_embedding),  # noqa: SLF001
    **dict.fromkeys(kernels.ELEMENTWISE, IntegerQuantizer._annotate_sum),  # noqa: SLF001
    **dict.fromkeys(kernels.MEAN, IntegerQuantizer._annotate_mean),  # noqa: SLF001
    **dict.fromkeys(
        kernels.TABLED | kernels.CONCATENATION | kernels.POOLING,
        IntegerQuantizer._annotate_when_integer,  # noqa: SLF001
    ),
    **dict.fromkeys(kernels.MOVING | kernels.PADDING, IntegerQuantizer._annotate_moving),  # noqa: SLF001
}
QUANTIZABLE = frozenset(_RULES) | kernels.CLIPPING
"""Operators that can become integer ones."""
