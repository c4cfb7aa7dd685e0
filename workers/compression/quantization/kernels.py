"""Operators of torch that ONNX Runtime's CPU provider has an integer kernel for, by what their pairs look like."""

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.fx import GraphModule, Node

from workers.compression.environment import has_vnni
from workers.compression.layers import arguments
from workers.compression.lifting import op_name

_aten = torch.ops.aten

CONVOLUTIONS = frozenset(
    {_aten.conv1d.default, _aten.conv1d.padding, _aten.conv2d.default, _aten.conv2d.padding}
)  # fmt: skip
LINEAR = frozenset({_aten.linear.default})
WEIGHTED = CONVOLUTIONS | LINEAR
EMBEDDING = frozenset({_aten.embedding.default})
_BOUNDED = frozenset(
    {_aten.hardtanh.default, _aten.hardtanh_.default, _aten.clamp.default, _aten.clamp_.default,
     _aten.clamp_min.default, _aten.clamp_min_.default}
)  # fmt: skip
CLIPPING = _BOUNDED | {_aten.relu.default, _aten.relu_.default, _aten.relu6.default}
_CUTTING = CLIPPING | {_aten.clamp_max.default, _aten.clamp_max_.default}
"""All that a file writes as Clip or Relu."""
SILU = frozenset({_aten.silu.default, _aten.silu_.default})
ELEMENTWISE = frozenset({_aten.add.Tensor, _aten.add_.Tensor, _aten.mul.Tensor, _aten.mul_.Tensor})
CONCATENATION = frozenset({_aten.cat.default})
POOLING = frozenset(
    {_aten.avg_pool1d.default, _aten.adaptive_avg_pool1d.default, _aten.avg_pool2d.default,
     _aten.adaptive_avg_pool2d.default}
)  # fmt: skip
MEAN = frozenset({_aten.mean.dim})
TABLED = frozenset({_aten.sigmoid.default, _aten.sigmoid_.default, _aten.leaky_relu.default, _aten.leaky_relu_.default})
"""One byte in, one byte out: the kernel looks the result up."""
MOVING = frozenset(
    {
        _aten.max_pool1d.default,
        _aten.max_pool2d.default,
        _aten.upsample_nearest2d.vec,
        _aten.dropout.default,
        _aten.flatten.using_ints,
        _aten.view.default,
        _aten.reshape.default,
        _aten.permute.default,
        _aten.transpose.int,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.unsqueeze.default,
        _aten.slice.Tensor,
        _aten.contiguous.default,
        _aten.clone.default,
    }
)
"""These give out values that came in, so that both sides share one scale."""
_VANISHING = frozenset({_aten.dropout.default, _aten.contiguous.default, _aten.clone.default})
"""Of those, what no file keeps."""
FLOATS = frozenset(
    [
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "batch_norm",
        "layer_norm",
        "group_norm",
        "instance_norm",
        "rms_norm",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "gelu",
        "mish",
        "tanh",
        "elu",
        "selu",
        "celu",
        "prelu",
        "softplus",
        "softmax",
        "log_softmax",
        "scaled_dot_product_attention",
        "matmul",
        "bmm",
        "einsum",
        "lstm",
        "gru",
    ]
)
"""Layers and activations that compute in float between integers."""
PADDING = frozenset({_aten.pad.default, _aten.constant_pad_nd.default})


_NAME = "winnow_name"
"""Where in ``Node.meta`` a name stands that is not the weight's."""
WEIGHT_MAX = 127
WEIGHT_MAX_REDUCED = 64
"""vpmaddubsw adds two products of uint8 × int8 in 16 bits: 2 · 255 · 64 < 2¹⁵ ≤ 2 · 255 · 127."""


def reduces_range(choice: str) -> bool:
    """Tell whether weights keep to seven bits on this processor, by what a spec has chosen."""
    return not has_vnni() if choice == "auto" else choice == "on"


def weight_bound(*, reduce_range: bool) -> int:
    """Give the largest magnitude of a stored weight."""
    return WEIGHT_MAX_REDUCED if reduce_range else WEIGHT_MAX


def is_parameter(argument: object) -> bool:
    return isinstance(argument, Node) and argument.op == "get_attr"


def clips(node: Node) -> bool:
    """Tell whether a node is an activation that cuts off at zero, which the range of its bytes then does by itself.

    A range of both signs has no end that is exactly the activation's: ONNX Runtime keeps such a clip, in float.
    """
    if node.target not in _BOUNDED:
        return node.target in CLIPPING
    given = arguments(node)
    lowest = given.get("min_val", given.get("min"))
    return isinstance(lowest, int | float) and lowest == 0


def runs_as_gemm(linear: Node) -> bool:
    """Tell whether a linear operator is ONNX's Gemm: over more than rows and features it is a product and a sum."""
    source = linear.args[0]
    return isinstance(source, Node) and source.meta["val"].dim() == 2


def cut_off(node: Node) -> bool:
    """Tell whether a clip of any kind alone reads what a node gives, as the file has it."""
    users = list(node.users)
    if len(users) != 1:
        return False
    return users[0].target in _CUTTING or (users[0].target in _VANISHING and cut_off(users[0]))


def moves(node: Node) -> bool:
    """Tell whether a node gives out values that came in, and zeros at most beside them, which bytes hold exactly."""
    if node.target in PADDING:
        given = arguments(node)
        return given.get("mode", "constant") == "constant" and not given["value"]
    return node.target in MOVING


def runs_in_float(node: Node) -> bool:
    """Tell whether a layer or an activation has no integer kernel as it is called."""
    if node.op != "call_function" or node.target in WEIGHTED:
        return False
    return not clips(node) if node.target in CLIPPING else op_name(node) in FLOATS


def spell_out(module: GraphModule) -> None:
    """Write SiLU as x·σ(x), of which both operators have integer kernels and the whole has none."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in SILU:
            continue
        with module.graph.inserting_before(node):
            sigmoid = module.graph.call_function(_aten.sigmoid.default, (node.args[0],))
            product = module.graph.call_function(_aten.mul.Tensor, (node.args[0], sigmoid))
        for made in (sigmoid, product):
            made.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        module.graph.erase_node(node)
    module.recompile()


def flatten_rows(module: GraphModule) -> None:
    """Let linear layers over more than rows and features, of sizes that all are known, run over rows.

    ONNX Runtime makes them a Gemm between two reshapes before it looks for integers, and then runs what was written as
    a product and a sum of integers in float.
    """
    for node in module.graph.find_nodes(op="call_function", target=_aten.linear.default):
        source, value = node.args[0], node.meta["val"]
        if value.dim() <= 2 or not all(isinstance(size, int) for size in source.meta["val"].shape):
            continue
        rows, width = math.prod(value.shape[:-1]), source.meta["val"].shape[-1]
        with module.graph.inserting_before(node):
            flat = module.graph.call_function(_aten.reshape.default, (source, [rows, width]))
        with module.graph.inserting_after(node):
            whole = module.graph.call_function(_aten.reshape.default, (node, list(value.shape)))
        flat.meta = {"val": source.meta["val"].reshape(rows, width)}
        whole.meta = {"val": value}
        node.replace_all_uses_with(whole, delete_user_cb=lambda user, whole=whole: user is not whole)
        node.update_arg(0, flat)
        node.meta["val"] = value.reshape(rows, value.shape[-1])
    module.recompile()


def part_biases(module: GraphModule) -> None:
    """Give each layer, and each call of one, a bias of its own: it is an integer in units of that call's sums."""
    for bias in module.graph.find_nodes(op="get_attr"):
        calls = [user for user in bias.users if user.target in WEIGHTED and user.args[2:3] == (bias,)]
        value = getattr(module.get_submodule(str(bias.target).rpartition(".")[0]), str(bias.target).rpartition(".")[2])
        for place, call in enumerate(calls[1:], start=2):
            name = f"{bias.target}_{place}"
            module.get_submodule(name.rpartition(".")[0]).register_parameter(
                name.rpartition(".")[2], nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
            )
            with module.graph.inserting_before(call):
                own = module.graph.get_attr(name)
            own.meta = dict(bias.meta)
            call.replace_input_with(bias, own)
    module.recompile()


def name_layers(module: GraphModule, adopted: Mapping[str, str]) -> None:
    """Give every layer, and every operator beside them, a name of its own; ``adopted`` says what modules stand for.

    A linear layer on an embedding's table is called what its module would be; an operator whose name a layer has
    gives way.
    """
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    tables = {layer_name(node) for node in calls if node.target in EMBEDDING}
    for node in calls:
        if node.target not in WEIGHTED:
            continue
        name = layer_name(node)
        name = adopted.get(name, name)
        node.meta[_NAME] = f"{name.replace('.', '_')}_product" if name in tables else name
    taken = tables | {layer_name(node) for node in calls if node.target in WEIGHTED}
    for node in calls:
        if node.target not in WEIGHTED | EMBEDDING and node.name in taken:
            node.meta[_NAME] = f"{node.name}_operator"


def layer_name(node: Node) -> str:
    """Give the dotted name of a layer with weights, the graph's own name of any other operator."""
    if _NAME in node.meta:
        return str(node.meta[_NAME])
    place = 0 if node.target in EMBEDDING else 1
    weight = node.args[place] if node.target in WEIGHTED | EMBEDDING else None
    if node.op == "call_function" and op_name(node) in FLOATS:
        weight = next((value for value in node.args if is_parameter(value)), None)
    # A weight that is computed, or an input, belongs to no layer.
    if isinstance(weight, Node) and weight.op == "get_attr":
        return str(weight.target).removesuffix(".weight")
    return node.name
