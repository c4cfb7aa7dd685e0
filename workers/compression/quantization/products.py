"""Products with a weight that the network owns become the linear layers that they are."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from workers.compression.layers import arguments
from workers.compression.lifting import op_name

_OPERANDS = {
    "linear": ("input", "weight", "bias"),
    "matmul": ("self", "other", ""),
    "mm": ("self", "mat2", ""),
    "addmm": ("mat1", "mat2", "self"),
}
"""What each operator calls its input, its weight and what it adds."""


def adopt_products(module: fx.GraphModule) -> dict[str, str]:
    """Put a linear layer in the place of every ``x·W`` and ``x·W + b`` in the module.

    The module is called what the weight is, with ``_product`` behind. A linear operator is one still where its weight
    is the network's own or serves an embedding too. Gives what each module is as a layer, as
    ``counting.find_weights`` has it: the owner of its weight, or the weight itself.
    """
    adopted = {}
    for node in list(module.graph.nodes):
        if not is_linear_layer(module, node):
            continue
        given = arguments(node)
        left, right, added = (given.get(name) for name in _OPERANDS[op_name(node)])
        weight, bias = _parameter(module, right), _parameter(module, added)
        assert right is not None
        assert weight is not None
        if op_name(node) != "linear":
            weight = weight.t()
        name = f"{str(right.target).removesuffix('.weight').replace('.', '_')}_product"
        module.add_submodule(name, _linear(weight.detach(), bias))
        adopted[name] = str(right.target).rpartition(".")[0] or str(right.target)
        with module.graph.inserting_before(node):
            call = module.graph.call_module(name, (left,))
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return adopted


def is_linear_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether an operator is ``x·W`` or ``x·W + b`` on weights of the network's own."""
    if node.op != "call_function" or op_name(node) not in _OPERANDS:
        return False
    given = arguments(node)
    _, right, added = (given.get(name) for name in _OPERANDS[op_name(node)])
    weight, bias = _parameter(module, right), _parameter(module, added)
    scaled = given.get("beta", 1) != 1 or given.get("alpha", 1) != 1
    if weight is None or weight.ndim != 2 or scaled:
        return False
    return added is None or (bias is not None and bias.ndim == 1)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _parameter(module: fx.GraphModule, argument: Any) -> Tensor | None:
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    owner, _, leaf = str(argument.target).rpartition(".")
    value = getattr(module.get_submodule(owner), leaf)
    return value if isinstance(value, nn.Parameter) else None
