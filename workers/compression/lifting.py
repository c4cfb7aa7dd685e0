"""From an exported program of aten operators to real ``nn`` modules under their original names."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from app.domain.errors import UnsupportedNetwork
from app.domain.model import Dimension, Signature, TensorSpec
from workers.compression.layers import BUILDERS, arguments
from workers.compression.network import STORED_WEIGHT, Network

ASSERTIONS = frozenset({"_assert_scalar", "_assert_tensor_metadata", "_assert_async", "sym_constrain_range",
                        "sym_constrain_range_for_size"})  # fmt: skip
QUANTIZED = "quantized_decomposed"
NO_UPPER_BOUND = 2**31


def op_name(node: fx.Node) -> str:
    """Give the operator's bare name: ``conv2d`` for ``aten::conv2d.padding``, ``relu`` for ``aten::relu_``."""
    if isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - torch has no public name for the class
        name = node.target._schema.name.split("::")[1]  # noqa: SLF001
        return name if name.startswith("__") else name.removesuffix("_")
    return getattr(node.target, "__name__", str(node.target))


def lift(exported: ExportedProgram) -> Network:
    """Make a :class:`Network` that shares no memory with ``exported``.

    Raises:
        UnsupportedNetwork: an input or output is no tensor, or a dynamic size is derived from others.
    """
    signature, dynamic, sizes = _describe(exported)
    # Guards would hold literal sizes that pruning changes.
    module = exported.module(check_guards=False)
    _drop_unused_inputs(module, exported)
    _plain_calls(module)
    _drop_bookkeeping(module)
    _build_modules(module)
    module.graph.lint()
    quantized = any(
        QUANTIZED in str(node.target) if node.op == "call_function" else _attribute(node, STORED_WEIGHT)
        for node in module.graph.nodes
    )
    for node in module.graph.nodes:
        node.meta = {}
    # Takes over only what the graph refers to; until the copy, the exported program owns the same tensors.
    module = copy.deepcopy(fx.GraphModule(module, module.graph)).eval()
    return Network(module=module, signature=signature, dynamic=dynamic, sizes=sizes, quantized=quantized)


def _describe(exported: ExportedProgram) -> tuple[Signature, tuple[dict[int, Dim], ...], tuple[tuple[int, ...], ...]]:
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    dims: dict[str, Dim] = {}
    inputs, dynamic, sizes = [], [], []
    for spec in exported.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT or isinstance(spec.arg, ConstantArgument):
            continue
        if not isinstance(spec.arg, TensorArgument):
            raise UnsupportedNetwork(f"The input {spec.arg.name!r} is no tensor.")
        value = values[spec.arg.name]
        found = {}
        for axis, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt):
                found[axis] = _dim(exported, spec.arg.name, axis, size, dims)
        inputs.append(_tensor_spec(spec.arg.name, value, dims))
        dynamic.append(found)
        sizes.append(tuple(_hint(size) for size in value.shape))
    outputs, taken = [], {spec.name for spec in inputs}
    for place, output in enumerate(
        s for s in exported.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT
    ):
        if not isinstance(output.arg, TensorArgument):
            raise UnsupportedNetwork(f"Output {place} of the network is no tensor.")
        name = f"output_{place}" if place else "output"
        # In a file no output may have the name of an input.
        while name in taken:
            name += "_"
        taken.add(name)
        outputs.append(_tensor_spec(name, values[output.arg.name], dims))
    if not inputs or not outputs:
        raise UnsupportedNetwork("The network has no tensor going in, or none coming out.")
    return Signature(inputs=tuple(inputs), outputs=tuple(outputs)), tuple(dynamic), tuple(sizes)


def _hint(size: int | torch.SymInt) -> int:
    return int(size) if isinstance(size, int) else int(size.node.hint)


def _dim(exported: ExportedProgram, name: str, axis: int, size: torch.SymInt, dims: dict[str, Dim]) -> Dim:
    expression = size.node.expr
    if expression.is_Integer:
        raise UnsupportedNetwork(
            f"Dimension {axis} of the input {name!r} is said to be dynamic; the graph holds for {expression} alone.",
            hint="Export it with that size fixed.",
        )
    if not expression.is_Symbol:
        raise UnsupportedNetwork(f"Dimension {axis} of the input {name!r} is derived from others: {expression}.")
    if str(expression) not in dims:
        bounds = exported.range_constraints.get(expression)
        lower = int(bounds.lower) if bounds is not None else 0
        upper = int(bounds.upper) if bounds is not None and bounds.upper < NO_UPPER_BOUND else None
        taken = {dim.__name__ for dim in dims.values()}
        label = "batch" if axis == 0 and "batch" not in taken else f"{name}_{axis}"
        dims[str(expression)] = Dim(label, min=lower, max=upper)
    return dims[str(expression)]


def _tensor_spec(name: str, value: torch.Tensor, dims: dict[str, Dim]) -> TensorSpec:
    shape: list[Dimension] = []
    for size in value.shape:
        if isinstance(size, int):
            shape.append(size)
            continue
        text = str(size.node.expr)
        for symbol, dim in dims.items():
            text = text.replace(symbol, dim.__name__)
        shape.append(text)
    return TensorSpec(name=name, dtype=str(value.dtype).removeprefix("torch."), shape=tuple(shape))


def _drop_unused_inputs(module: fx.GraphModule, exported: ExportedProgram) -> None:
    """Drop inputs that were constants (``None``, a flag) when the network was exported."""
    constants = {s.arg.name for s in exported.graph_signature.input_specs if isinstance(s.arg, ConstantArgument)}
    for node in list(module.graph.find_nodes(op="placeholder")):
        if node.name in constants:
            if node.users:
                raise UnsupportedNetwork(f"The input {node.name!r} is no tensor.")
            module.graph.erase_node(node)


def _plain_calls(module: fx.GraphModule) -> None:
    """Take tensors one by one and return a tensor or a tuple, in place of nested containers."""
    module.graph.set_codegen(fx.graph.CodeGen())
    output = module.graph.output_node()
    results = output.args[0]
    if isinstance(results, fx.Node):
        return
    assert isinstance(results, tuple | list)
    output.args = (results[0],) if len(results) == 1 else (tuple(results),)


def _drop_bookkeeping(module: fx.GraphModule) -> None:
    """Drop assertions on traced values, what only constants are sent through, and the counters of ``nn.BatchNorm``."""
    for node in reversed(list(module.graph.nodes)):
        counts = op_name(node) in {"add", "copy"} and _attribute(
            node.args[0] if node.args else None, "num_batches_tracked"
        )
        if node.op != "call_function":
            continue
        if not node.users and (counts or op_name(node) in ASSERTIONS):
            module.graph.erase_node(node)
        elif node.target is torch.ops.aten.detach_.default and op_name(node.args[0]) == "lift_fresh_copy":
            # How a constant made by the network's own code is traced: it has no gradient either way.
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def _attribute(node: Any, suffix: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr" and str(node.target).rpartition(".")[2] == suffix


def _build_modules(module: fx.GraphModule) -> None:
    built: dict[str, nn.Module] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001
            continue
        if op_name(node) == "dropout":
            _call(module, node, _free_name(module, node), nn.Dropout(arguments(node)["p"], inplace=_in_place(node)))
            continue
        build = BUILDERS.get(op_name(node))
        if build is None:
            continue
        owner = _owner(module, node)
        if owner is None:
            continue
        layer = _filled(module, owner, build, node)
        if layer is None or (owner in built and repr(built[owner]) != repr(layer)):
            # Tied weights serve two kinds of layer: the second stays an operator on the first one's weight.
            continue
        built.setdefault(owner, layer)
        _call(module, node, owner, built[owner])
    module.graph.eliminate_dead_code()


def _source(node: fx.Node) -> str:
    """Name the argument that a module is called with."""
    if op_name(node) == "embedding":
        return "indices"
    return "self" if _in_place(node) else "input"


def _in_place(node: fx.Node) -> bool:
    schema = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001 - torch has no public name for it
    return bool(schema.is_mutable)


def _owner(module: fx.GraphModule, node: fx.Node) -> str | None:
    """Name the module whose own tensors, and no others, the operator reads."""
    own: set[str] = set()
    for name, argument in arguments(node).items():
        if name == _source(node) or not isinstance(argument, fx.Node):
            continue
        if argument.op != "get_attr" or not _attribute(argument, name):
            return None
        own.add(str(argument.target).rpartition(".")[0])
    if len(own) != 1 or "" in own:
        return None
    owner = own.pop()
    return None if any(True for _ in module.get_submodule(owner).children()) else owner


def _filled(module: fx.GraphModule, owner: str, build: Callable[..., nn.Module], node: fx.Node) -> nn.Module | None:
    """Build the layer around the tensors that stand under its name."""
    found = module.get_submodule(owner)
    tensors = dict(found.named_parameters(recurse=False)) | dict(found.named_buffers(recurse=False))
    given = {key: tensors.get(key) if isinstance(value, fx.Node) and key != _source(node) else value
             for key, value in arguments(node).items()}  # fmt: skip
    rank = node.args[0].meta["val"].dim() if isinstance(node.args[0], fx.Node) else 0
    layer = build(given, rank)
    mine = dict(layer.named_parameters()) | dict(layer.named_buffers())
    if set(tensors) - set(mine) - {"num_batches_tracked"}:
        return None
    for name, tensor in tensors.items():
        if name in mine:
            setattr(layer, name, tensor)
    return layer


def _free_name(module: fx.GraphModule, node: fx.Node) -> str:
    """Use the dropout's name in the original module where the file tells it, else the node's."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((path for path, kind in reversed(stack.values()) if "Dropout" in str(kind)), "")
    taken = {name for name, _ in module.named_modules()} | set(dict(module.named_parameters()))
    name = path if path and all(part.isidentifier() or part.isdigit() for part in path.split(".")) else node.name
    while name in taken:
        name += "_"
    return str(name)


def _call(module: fx.GraphModule, node: fx.Node, name: str, layer: nn.Module) -> None:
    _place(module, name, layer)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(name, (arguments(node)[_source(node)],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)


def _place(module: fx.GraphModule, name: str, layer: nn.Module) -> None:
    *parents, leaf = name.split(".")
    place: nn.Module = module
    for part in parents:
        if part not in place._modules:  # noqa: SLF001 - getattr would also find parameters
            place.add_module(part, nn.Module())
        place = operator.attrgetter(part)(place)
    place.add_module(leaf, layer)
