"""Where quantize and dequantize pairs go, so that ONNX Runtime fuses every one of them into an integer kernel.

ONNX Runtime replaces ``DequantizeLinear → operator → QuantizeLinear`` by the operator's integer form: convolutions
and poolings need a pair on both sides, sums one on each input and on the output, a linear layer only on its input
(its result may leave as float). An activation that only clips sits inside the pair, never between two. A pair
that nothing fuses costs time and accuracy, so an operator without an integer form gets none.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

_aten = torch.ops.aten

ANNOTATION = "quantization_annotation"
"""The key in ``Node.meta`` under which torchao looks."""
WEIGHT_MAX = 127
WEIGHT_MAX_REDUCED = 64
"""vpmaddubsw adds two products of uint8 × int8 in 16 bits: 2 · 255 · 64 < 2¹⁵ ≤ 2 · 255 · 127."""
SMALLEST_SCALE = 2.0**-24

CONVOLUTIONS = frozenset({_aten.conv1d.default, _aten.conv2d.default})
LINEAR = frozenset({_aten.linear.default})
CLIPPING = frozenset(
    {_aten.relu.default, _aten.relu_.default, _aten.relu6.default, _aten.hardtanh.default, _aten.hardtanh_.default}
)
ELEMENTWISE = frozenset({_aten.add.Tensor, _aten.add_.Tensor, _aten.mul.Tensor, _aten.mul_.Tensor})
CONCATENATION = frozenset({_aten.cat.default})
POOLING = frozenset({_aten.avg_pool2d.default, _aten.adaptive_avg_pool2d.default})
MEAN = frozenset({_aten.mean.dim})
SIGMOID = frozenset({_aten.sigmoid.default, _aten.sigmoid_.default})
MOVING = frozenset(
    {
        _aten.max_pool2d.default,
        _aten.dropout.default,
        _aten.flatten.using_ints,
        _aten.view.default,
        _aten.reshape.default,
        _aten.permute.default,
        _aten.transpose.int,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.unsqueeze.default,
    }
)
"""These give out values that came in, so that both sides share one scale."""


class IntegerQuantizer(Quantizer):  # type: ignore[misc]
    """Weights symmetric int8 an output channel, activations asymmetric uint8 a tensor, biases int32."""

    def __init__(self, observer: Literal["histogram", "minmax"], *, reduce_range: bool) -> None:
        super().__init__()
        bound = WEIGHT_MAX_REDUCED if reduce_range else WEIGHT_MAX
        self.weight = QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=SMALLEST_SCALE),
            quant_min=-bound,
            quant_max=bound,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )
        ranges = HistogramObserver if observer == "histogram" else MinMaxObserver
        self.activation = QuantizationSpec(
            dtype=torch.uint8,
            observer_or_fake_quant_ctr=ranges.with_args(eps=SMALLEST_SCALE),
            quant_min=0,
            quant_max=255,
            qscheme=torch.per_tensor_affine,
        )

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate in graph order; the graph comes back too, as NNCF wants it."""
        integer: set[Node] = set()
        for node in model.graph.nodes:
            rule = _RULES.get(node.target) if node.op == "call_function" else None
            if rule is not None and ANNOTATION not in node.meta:
                rule(self, node, integer)
        return model

    def validate(self, model: GraphModule) -> None:
        """Accept every annotation: they are all this class's own."""

    def _annotate_convolution(self, node: Node, integer: set[Node]) -> None:
        if _is_parameter(node.args[1]):
            self._annotate_output(node, self._weighted_inputs(node), integer)

    def _annotate_linear(self, node: Node, integer: set[Node]) -> None:  # noqa: ARG002 - all rules are called alike
        # Logits and whatever else leaves as float stay exact; an integer consumer asks for its own pair.
        if _is_parameter(node.args[1]):
            _set(node, self._weighted_inputs(node), None)

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
        if integer.issuperset(inputs):
            self._annotate_output(node, dict.fromkeys(inputs, self.activation), integer)

    def _annotate_moving(self, node: Node, integer: set[Node]) -> None:
        source = node.args[0]
        if isinstance(source, Node) and source in integer:
            _set(node, {source: self.activation}, SharedQuantizationSpec((source, node)))
            integer.add(node)

    def _annotate_output(self, node: Node, inputs: dict[Node, QuantizationSpecBase], integer: set[Node]) -> None:
        """Put the pair behind ``node``, or behind the activation that clips it."""
        users = list(node.users)
        if len(users) == 1 and users[0].target in CLIPPING:
            _set(node, inputs, None)
            node, inputs = users[0], {}
        _set(node, inputs, self.activation)
        integer.add(node)

    def _weighted_inputs(self, node: Node) -> dict[Node, QuantizationSpecBase]:
        source, weight, *rest = node.args
        assert isinstance(source, Node)
        assert isinstance(weight, Node)
        inputs: dict[Node, QuantizationSpecBase] = {source: self.activation, weight: self.weight}
        if rest and isinstance(rest[0], Node):
            inputs[rest[0]] = DerivedQuantizationSpec(
                derived_from=[(source, node), (weight, node)],
                derive_qparams_fn=_bias_parameters,
                dtype=torch.int32,
                quant_min=-(2**31),
                quant_max=2**31 - 1,
                qscheme=torch.per_channel_symmetric,
                ch_axis=0,
            )
        return inputs


def weighted_layers(model: GraphModule) -> dict[str, str]:
    """Give the graph node and the dotted name of each annotated layer of a prepared graph."""
    layers = {}
    for node in model.graph.nodes:
        if node.target in CONVOLUTIONS | LINEAR and ANNOTATION in node.meta:
            weight = node.args[1]
            while weight.op != "get_attr":
                # The observer stands between the layer and its weight.
                weight = weight.args[0]
            layers[node.name] = str(weight.target).removesuffix(".weight")
    return layers


def _bias_parameters(observers: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the scale of the sums, s_bias = s_input · s_weight, and its zero points: none."""
    scale = observers[0].calculate_qparams()[0] * observers[1].calculate_qparams()[0]
    return scale, torch.zeros_like(scale, dtype=torch.int32)


def _is_parameter(argument: Any) -> bool:
    return isinstance(argument, Node) and argument.op == "get_attr"


def _set(node: Node, inputs: dict[Node, QuantizationSpecBase], output: QuantizationSpecBase | None) -> None:
    node.meta[ANNOTATION] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)


_Rule = Callable[[IntegerQuantizer, Node, set[Node]], None]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(CONVOLUTIONS, IntegerQuantizer._annotate_convolution),  # noqa: SLF001
    **dict.fromkeys(LINEAR, IntegerQuantizer._annotate_linear),  # noqa: SLF001
    **dict.fromkeys(ELEMENTWISE, IntegerQuantizer._annotate_sum),  # noqa: SLF001
    **dict.fromkeys(MEAN, IntegerQuantizer._annotate_mean),  # noqa: SLF001
    **dict.fromkeys(CLIPPING | SIGMOID | CONCATENATION | POOLING, IntegerQuantizer._annotate_when_integer),  # noqa: SLF001
    **dict.fromkeys(MOVING, IntegerQuantizer._annotate_moving),  # noqa: SLF001
}
