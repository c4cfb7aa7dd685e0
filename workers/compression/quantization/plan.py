"""All that static quantization decides before anything is converted: ranges, biases, smoothing, layers in float."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx import GraphModule, Node

from app.domain.errors import NothingToQuantize
from app.domain.steps.quantize import QuantizeSpec
from workers.compression.counting import describe_layers
from workers.compression.inference import held_at_once
from workers.compression.network import Network
from workers.compression.quantization import kernels
from workers.compression.quantization.calibration import (
    SPLIT,
    Inputs,
    calibration_rows,
    observe,
    read_rows,
    run_batches,
)
from workers.compression.quantization.control import Control, named_operators, resolve, without_kernel
from workers.compression.quantization.correction import correct_biases
from workers.compression.quantization.folding import fold_batch_norms
from workers.compression.quantization.layer_report import describe
from workers.compression.quantization.noise import energy, sqnr_db
from workers.compression.quantization.products import adopt_products
from workers.compression.quantization.quantizer import QUANTIZABLE, IntegerQuantizer, Parameters, clipped, moved_from
from workers.compression.quantization.ranges import Choice
from workers.compression.quantization.simulation import Rounded, Simulation, layer_calls
from workers.compression.quantization.smoothing import smooth
from workers.compression.step import Context

_TRIAL_ROWS = 128
"""Rows to correct biases on and to compare choices by; more move no figure that was looked at."""
OBSERVED = (0.0, 0.3, 0.5)
"""Shares of the step after nothing, the first pass over the calibration rows and that over the smoothed network."""


@dataclass(frozen=True)
class Decision:
    """Whether something that may help is used, and what the outputs' SQNR in dB is with it and without."""

    used: bool
    sqnr_db_with: float | None = None
    sqnr_db_without: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Plan:
    """A float graph of aten operators with what each value and each layer will be.

    ``biases`` are the corrected ones of integer layers; those of layers in float stay as they were.
    """

    network: Network
    spec: QuantizeSpec
    module: GraphModule
    batches: list[Inputs]
    control: Control
    parameters: Parameters
    smoothing: Decision = Decision(used=False)
    correction: Decision = Decision(used=False)
    biases: dict[str, Tensor] = field(default_factory=dict)
    weights: Rounded = field(default_factory=dict)

    @property
    def reduce_range(self) -> bool:
        return kernels.reduces_range(self.spec.reduce_range)

    def quantizer(self, floats: frozenset[str] = frozenset()) -> IntegerQuantizer:
        return IntegerQuantizer(
            self.parameters,
            reduce_range=self.reduce_range,
            symmetric=self.spec.symmetric_activations,
            floats=self.control.floats | floats,
            bits=self.control.bits,
            biases=self.biases,
        )

    def simulation(self, floats: frozenset[str] = frozenset()) -> Simulation:
        """Annotate the graph for a choice of layers in float, and give what runs it."""
        self.quantizer(floats).annotate(self.module)
        integer = chain.from_iterable(layer_calls(self.module.graph).values())
        mine = {str(bias.target) for node in integer for bias in node.args[2:3] if isinstance(bias, Node)}
        return Simulation(self.module, self.weights, {k: v for k, v in self.biases.items() if k in mine})

    def layers(self) -> dict[str, list[Node]]:
        """Give the calls of all layers that are integers where no other goes back to float."""
        self.quantizer().annotate(self.module)
        return layer_calls(self.module.graph)

    def figures(self, floats: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        """Describe each integer layer on calibration rows."""
        return describe(self.simulation(floats), _some(self.batches), self.control.bits)

    def float_graph(self, floats: frozenset[str] = frozenset()) -> GraphModule:
        """Give a copy of the graph with the biases that integer layers have."""
        simulation = self.simulation(floats)
        module = copy.deepcopy(self.module)
        for name, bias in simulation.biases.items():
            module.get_parameter(name).data = bias.clone()
        return module

    def reference(self, batches: list[Inputs]) -> Tensor:
        """Give the outputs of the float graph."""
        return run_batches(fx.Interpreter(self.module).run, batches)

    def outputs(self, floats: frozenset[str], batches: list[Inputs]) -> Tensor:
        """Give the outputs with the named layers in float and all others quantized."""
        return run_batches(self.simulation(floats).run, batches)

    def sqnr(self) -> dict[str, float | None]:
        return {layer["name"]: layer["sqnr_db"] for layer in self.figures()}

    def macs(self) -> dict[str, float]:
        return {layer.name: float(layer.macs) for layer in describe_layers(self.network)}


def make_plan(network: Network, spec: QuantizeSpec, context: Context) -> Plan:
    """Observe the calibration rows and decide what ``auto`` leaves open by what it does to the outputs there."""
    batches = calibration_rows(network, context, spec.samples, spec.batch_size)
    # Rows that no range was found on judge better; where there are none, those will do.
    most = held_at_once(network, context.data, _TRIAL_ROWS)
    behind = np.arange(context.data.rows(SPLIT))[spec.samples :][:most]
    others = list(read_rows(network, context, SPLIT, behind, spec.batch_size))
    usable = others and all(torch.isfinite(value).all() for inputs in others for value in inputs)
    trial = others if usable else _some(batches, most)
    folded = fold_batch_norms(network.module)
    adopted = adopt_products(folded)
    plan = _observed(network, folded, adopted, spec, batches, _part(context, 0))
    reference = plan.reference(trial)
    if spec.smooth_quant != "off":
        smoothed, names = smooth(folded, batches, spec.smooth_alpha)
        if names:
            other = _observed(network, smoothed, adopted, spec, batches, _part(context, 1))
            better, decision = _better(spec.smooth_quant, plan, other, reference, trial)
            plan = replace(better, smoothing=decision)
    if spec.bias_correction != "off":
        layers = plan.layers()
        one = tuple(torch.cat(values) for values in zip(*_some(batches, most), strict=True))
        rows = one if network.batch_is_dynamic else batches[0]
        other = replace(plan, biases=correct_biases(plan.module, plan.weights, rows, layers))
        better, decision = _better(spec.bias_correction, plan, other, reference, trial)
        plan = replace(better, correction=decision)
    return plan


def _observed(
    network: Network,
    folded: GraphModule,
    adopted: Mapping[str, str],
    spec: QuantizeSpec,
    batches: list[Inputs],
    progress: Callable[[float], None],
) -> Plan:
    module = replace(network, module=folded).export().module(check_guards=False)  # guards are calls of a module
    assert isinstance(module, GraphModule)
    kernels.spell_out(module)
    kernels.flatten_rows(module)
    kernels.part_biases(module)
    kernels.name_layers(module, adopted)
    operators, floats = named_operators(module, QUANTIZABLE), without_kernel(module)
    plan = Plan(
        network=network,
        spec=spec,
        module=module,
        batches=batches,
        control=Control(frozenset(), {}),
        parameters=_Wanted(),
    )
    layers = frozenset(plan.layers())
    plan = replace(plan, control=resolve(spec, operators, layers, floats), parameters=_Wanted())
    calls = plan.layers()
    if not calls:
        left = ", ".join(sorted(layers))
        raise NothingToQuantize(
            f"include, exclude and overrides leave every layer in float: {left}."
            if layers
            else "No convolution or linear layer of this network has an integer kernel."
        )
    seen = observe(module, plan.parameters.keys(), batches, progress)
    choices = _choices(spec, plan.control, calls)
    default = Choice(spec.observer, spec.percentile, spec.symmetric_activations)
    found = {name: choices.get(name, default) for name in seen}
    for node in module.graph.nodes:
        # What is cut off at zero has no other sign, and only bytes that end there do the cutting.
        if node.name in found and kernels.clips(node):
            found[node.name] = replace(found[node.name], symmetric=False)
    return replace(plan, parameters={name: choice.parameters(seen[name]) for name, choice in found.items()})


def _part(context: Context, place: int) -> Callable[[float], None]:
    low, high = OBSERVED[place : place + 2]
    return lambda share: context.fraction(low + share * (high - low), "Finding ranges on calibration rows")


class _Wanted(dict[str, tuple[float, int]]):
    """Remembers of which values a quantizer asks the parameters."""

    def __missing__(self, name: str) -> tuple[float, int]:
        self[name] = (1.0, 0)
        return self[name]


def _choices(spec: QuantizeSpec, control: Control, layers: dict[str, list[Node]]) -> dict[str, Choice]:
    """Give the observers of single values: of what layers with one of their own read and give."""
    choices = {}
    for name, observer in control.observers.items():
        choice = Choice(observer, spec.percentile, spec.symmetric_activations)
        for node in layers.get(name, []):
            source = node.args[0]
            assert isinstance(source, Node)
            for value in (moved_from(source), node, clipped(node)):
                choices[value.name] = choice
    return choices


def _better(asked: str, plan: Plan, other: Plan, reference: Tensor, trial: list[Inputs]) -> tuple[Plan, Decision]:
    """Take the other plan where it was asked for, or where its outputs are nearer to the float ones."""
    noises = [energy(reference - choice.outputs(frozenset(), trial)) for choice in (other, plan)]
    used = asked == "on" or noises[0] < noises[1]
    figures = [sqnr_db(energy(reference), noise) for noise in noises]
    decision = Decision(used, *(None if figure is None else round(figure, 3) for figure in figures))
    return (other if used else plan), decision


def _some(batches: Sequence[Inputs], most: int = _TRIAL_ROWS) -> list[Inputs]:
    """Give the first batches, as many as hold the rows that trials take: ``most``, or those of one batch."""
    size = max(1, len(batches[0][0]))
    return list(batches[: max(1, most // size)])
