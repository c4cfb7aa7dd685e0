"""Static quantization: ranges found on calibration rows, integers from end to end."""

import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.fx import GraphModule, Node

from app.domain.errors import NoChange
from app.domain.steps.quantize import QuantizeSpec
from workers.compression.network import Network
from workers.compression.quantization.calibration import SPLIT
from workers.compression.quantization.objective import hold_objective
from workers.compression.step import Context, StepResult

if TYPE_CHECKING:
    from workers.compression.quantization.plan import Plan


def run(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    """Quantize weights and activations of every layer that has an integer kernel and is not left out.

    With an objective, layers go back to float until no more is lost than allowed, judged on rows that are not those
    of validation.

    Raises:
        InvalidDataset: there are no calibration rows, or they hold values that are not finite.
        RangeNotFound: a value inside the network is constant, or not finite, on all of them.
        ValidationFailed: a pattern matches nothing.
        NothingToQuantize: no layer with an integer kernel is left.
        NoChange: the converted network holds no pairs.
    """
    with torchao_quiet():
        # torchao logs and warns as it is imported.
        from workers.compression.quantization.plan import OBSERVED, make_plan

        plan = make_plan(network, spec, context)
        held = hold_objective(plan, network, spec, context, observed=spec.samples, begin=OBSERVED[-1])
        floats = held.floats if held else frozenset[str]()
        result = finish(plan, prepare(plan, floats), context, floats)
    return replace(result, details=result.details | ({"gate": held.as_json()} if held else {}))


def prepare(plan: "Plan", floats: frozenset[str] = frozenset()) -> GraphModule:
    """Give a copy of the plan's graph with all that conversion has to know."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    prepared: GraphModule = prepare_pt2e(plan.float_graph(floats), plan.quantizer(floats))
    return prepared


def finish(plan: "Plan", prepared: GraphModule, context: Context, floats: frozenset[str] = frozenset()) -> StepResult:
    """Put the integers in that a plan has prepared, and tell what was done."""
    from workers.compression.quantization.simulation import layer_calls

    figures = plan.figures(floats)
    quantized = _convert(prepared)
    names = {node.name: name for name, calls in layer_calls(plan.module.graph).items() for node in calls}
    _name_stored(quantized, names)
    result = replace(plan.network, module=quantized, quantized=True)
    pairs = _count_pairs(quantized)
    if not pairs:
        raise NoChange("Quantization put no quantize and dequantize pair anywhere.")
    details: dict[str, Any] = {
        "pairs": pairs,
        "layers_quantized": len(figures),
        "calibration_rows": min(plan.spec.samples, context.data.rows(SPLIT)),
        "observer": plan.spec.observer,
        "reduce_range": plan.reduce_range,
        "bias_correction": plan.correction.as_json(),
        "smooth_quant": plan.smoothing.as_json(),
        "floats": plan.control.reasons(floats),
        "layers": figures,
    }
    return StepResult(result, details)


def _convert(prepared: GraphModule) -> GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    converted = convert_pt2e(prepared)
    _drop_unused_state(converted)
    for node in converted.graph.nodes:
        # What is left of tracing differs from run to run, and would be written into the file.
        node.meta = {}
    # A plain module: torchao's refuses train() and eval(), which exporting may call.
    return GraphModule(converted, converted.graph)


def _name_stored(module: GraphModule, layers: Mapping[str, str]) -> None:
    """Call integer weights and biases by the layers that have them; ``layers`` tells by the names of their nodes."""
    moved: set[Node] = set()
    for node in list(module.graph.nodes):
        for place, leaf in ((1, "weight"), (2, "bias")):
            given = node.args[place] if node.name in layers and len(node.args) > place else None
            # Other constants may stand there too, such as the places that an embedding looks up.
            dequantized = isinstance(given, Node) and "dequantize" in str(given.target)
            stored = given.args[0] if isinstance(given, Node) and dequantized else None
            if isinstance(stored, Node) and stored.op == "get_attr" and stored not in moved:
                _move(module, stored, f"{layers[node.name]}.{leaf}")
                moved.add(stored)
    module.recompile()


def _move(module: GraphModule, stored: Node, name: str) -> None:
    old, taken = str(stored.target), module.state_dict()
    place = next(place for place in itertools.count(1) if (name if place == 1 else f"{name}_{place}") not in taken)
    owner, _, leaf = (name if place == 1 else f"{name}_{place}").rpartition(".")
    if owner not in dict(module.named_modules()):
        module.add_submodule(owner, nn.Module())
    module.get_submodule(owner).register_buffer(leaf, getattr(module, old))
    delattr(module, old)
    stored.target = f"{owner}.{leaf}"


def _drop_unused_state(module: GraphModule) -> None:
    """Delete the float weights, which conversion leaves behind."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
    module.delete_all_unused_submodules()


def _count_pairs(module: GraphModule) -> int:
    """Count the dequantize operators: each ends one pair, on an activation or on a stored weight."""
    return sum("dequantize" in str(node.target) for node in module.graph.nodes if node.op == "call_function")


@contextmanager
def torchao_quiet() -> Iterator[None]:
    """Silence torchao's import and passes, which log missing GPU libraries and warn of torch's deprecations."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
