"""Static quantization: ranges found on calibration rows, integers from end to end."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from app.domain.errors import CheckFailed, InvalidDataset, NoChange, NothingToQuantize
from app.domain.recipe import QuantizeSpec
from workers.compression.environment import has_vnni
from workers.compression.network import Network
from workers.compression.quantization.folding import fold_batch_norms
from workers.compression.step import Context, StepResult

CALIBRATION_BATCH = 32
SPLIT = "calibration"
BITS = 8


Tune = Callable[[GraphModule, GraphModule], GraphModule]
"""Takes the observed graph with its ranges found, and the float one beside it; gives the graph to convert."""


def run(network: Network, spec: QuantizeSpec, context: Context, tune: Tune | None = None) -> StepResult:
    """Quantize weights and activations of every layer that has an integer kernel.

    Raises:
        InvalidDataset: there are no calibration rows, or they hold values that are not finite.
        NothingToQuantize: the network has no layer with an integer kernel.
        NoChange, CheckFailed: the converted network holds no pairs, or gives other shapes or no finite values.
    """
    rows = calibration_rows(network, context, spec.samples)
    reduce_range = reduces_range(spec)
    with torchao_quiet():
        exported = _export(network)
        reference = copy.deepcopy(exported)
        prepared, layers = _observe(exported, spec, rows, context, reduce_range=reduce_range)
        quantized = _convert(prepared if tune is None else tune(prepared, reference))
    result = replace(network, module=quantized, quantized=True)
    pairs = count_pairs(quantized)
    if not pairs:
        raise NoChange("Quantization put no quantize and dequantize pair anywhere.")
    _check(network, result)
    figures = layer_sqnr(reference, quantized, layers, rows[0])
    details: dict[str, Any] = {
        "pairs": pairs,
        "layers_quantized": len(layers),
        "calibration_rows": min(spec.samples, context.data.rows(SPLIT)),
        "observer": spec.observer,
        "reduce_range": reduce_range,
        "layers": [
            {"name": name, "bits": BITS, "range": list(figures[name][0]), "sqnr_db": figures[name][1]}
            for name in layers.values()
        ],
    }
    return StepResult(result, details)


def reduces_range(spec: QuantizeSpec) -> bool:
    """Tell whether weights keep to seven bits on this processor."""
    return not has_vnni() if spec.reduce_range == "auto" else spec.reduce_range == "on"


def calibration_rows(network: Network, context: Context, samples: int) -> list[tuple[torch.Tensor, ...]]:
    """Read the first ``samples`` calibration rows in batches; a fixed batch is filled up with repeated rows."""
    available = context.data.rows(SPLIT)
    if not available:
        raise InvalidDataset("The data set has no calibration rows, and no train rows to take them from.")
    order = np.arange(min(samples, available))
    size = CALIBRATION_BATCH if network.batch_is_dynamic else network.rows
    batches = []
    for start in range(0, len(order), size):
        picked = order[start : start + size]
        inputs, _ = context.data.gather(SPLIT, picked if network.batch_is_dynamic else np.resize(picked, size))
        for spec, values in zip(network.signature.inputs, inputs, strict=True):
            if not torch.isfinite(values).all():
                raise InvalidDataset(f"The calibration rows of {spec.name} hold NaN or infinite values.")
        batches.append(inputs)
    return batches


def _export(network: Network) -> GraphModule:
    """Give the graph of aten operators that torchao works on, batch norms folded."""
    folded = replace(network, module=fold_batch_norms(network.module))
    # Guards are a module call that torchao's passes do not know.
    module = folded.export().module(check_guards=False)
    assert isinstance(module, GraphModule)
    return module


def _observe(
    exported: GraphModule,
    spec: QuantizeSpec,
    rows: list[tuple[torch.Tensor, ...]],
    context: Context,
    *,
    reduce_range: bool,
) -> tuple[GraphModule, dict[str, str]]:
    """Give the graph with all ranges found, and the node and name of each layer that is to be integer."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    from workers.compression.quantization.quantizer import IntegerQuantizer, weighted_layers

    prepared = prepare_pt2e(exported, IntegerQuantizer(spec.observer, reduce_range=reduce_range))
    layers = weighted_layers(prepared)
    if not layers:
        raise NothingToQuantize("No convolution or linear layer of this network has an integer kernel.")
    with torch.no_grad():
        for index, inputs in enumerate(rows):
            prepared(*inputs)
            context.fraction((index + 1) / (len(rows) + 1), "Finding ranges on calibration rows")
    return prepared, layers


def _convert(prepared: GraphModule) -> GraphModule:
    """Put the integers in."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    converted = convert_pt2e(prepared)
    _drop_unused_state(converted)
    for node in converted.graph.nodes:
        # What is left of tracing differs from run to run, and would be written into the file.
        node.meta = {}
    # A plain module: torchao's refuses train() and eval(), which exporting may call.
    return GraphModule(converted, converted.graph)


def _drop_unused_state(module: GraphModule) -> None:
    """Delete the float weights, which conversion leaves behind."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
    module.delete_all_unused_submodules()


def count_pairs(module: GraphModule) -> int:
    """Count the dequantize operators: each ends one pair, on an activation or on a stored weight."""
    return sum("dequantize" in str(node.target) for node in module.graph.nodes if node.op == "call_function")


def _check(before: Network, after: Network) -> None:
    inputs = before.example_inputs()
    with torch.no_grad():
        expected, actual = before.module(*inputs), after.module(*inputs)
    pairs = zip(*(value if isinstance(value, tuple) else (value,) for value in (expected, actual)), strict=True)
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            raise CheckFailed(f"Quantization changed an output from {tuple(ours.shape)} to {tuple(theirs.shape)}.")
        if torch.isfinite(ours).all() and not torch.isfinite(theirs).all():
            raise CheckFailed("The quantized network gives values that are not finite.")


def layer_sqnr(
    reference: GraphModule, quantized: GraphModule, layers: dict[str, str], inputs: tuple[torch.Tensor, ...]
) -> dict[str, tuple[tuple[float, float], float | None]]:
    """Give for each layer the range of its float output and 10·log10(Σy² / Σ(y−ŷ)²) over the rows.

    ŷ is the output inside the quantized network, so that the errors of all layers before it are part of it.
    None stands for an error of zero.
    """
    expected, actual = (_Recorder(module, set(layers)).record(inputs) for module in (reference, quantized))
    figures: dict[str, tuple[tuple[float, float], float | None]] = {}
    for node, name in layers.items():
        y, error = expected[node].double(), (expected[node] - actual[node]).double()
        noise = float(error.square().sum())
        signal = float(y.square().sum())
        sqnr = 10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else None
        figures[name] = ((float(y.min()), float(y.max())), sqnr)
    return figures


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps the outputs of some nodes."""

    def __init__(self, module: GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self.names = names
        self.kept: dict[str, torch.Tensor] = {}

    def record(self, inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            self.run(*inputs)
        return self.kept

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            self.kept[n.name] = value
        return value


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
