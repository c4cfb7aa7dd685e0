"""What quantization makes of each layer, on calibration rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from workers.compression.quantization.calibration import Inputs
from workers.compression.quantization.noise import energy, sqnr_db
from workers.compression.quantization.quantizer import ANNOTATION, clipped
from workers.compression.quantization.simulation import Simulation, layer_calls, lockstep

BITS = 8


@dataclass
class _Figures:
    low: float = math.inf
    high: float = -math.inf
    signal: float = 0.0
    noise: float = 0.0
    saturated: int = 0
    values: int = 0

    def add(self, exact: Tensor, value: Tensor) -> None:
        low, high = (float(extreme) for extreme in torch.aminmax(exact))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.signal += energy(exact)
        self.noise += energy(exact - value)

    def count_saturated(self, value: Tensor, spec: Any) -> None:
        steps = value / spec.scale + spec.zero_point
        self.saturated += int(((steps < spec.quant_min - 0.5) | (steps > spec.quant_max + 0.5)).sum())
        self.values += value.numel()


def describe(simulation: Simulation, batches: Sequence[Inputs], bits: Mapping[str, int]) -> list[dict[str, Any]]:
    """Give for each integer layer its bits, the range of its float output, its SQNR and its saturated share.

    The SQNR, 10·log10(Σy² / Σ(y−ŷ)²), takes ŷ from inside the quantized network: the errors of all layers before it
    are part of it; null stands for an error of zero. All calls of a layer count together. Saturated is the share of
    values behind the layer, and behind the activation that clips it, that lie beyond the integers' range by more than
    half a step; null where the layer gives floats.
    """
    layers = layer_calls(simulation.graph)
    names = {node: name for name, calls in layers.items() for node in calls}
    encoded = {
        behind: name for node, name in names.items() for behind in {node, clipped(node)} if _output(behind) is not None
    }
    figures = {name: _Figures() for name in layers}

    def visit(node: Node, exact: Any, value: Any) -> Any:
        if node in names:
            figures[names[node]].add(exact, value)
        if node in encoded:
            figures[encoded[node]].count_saturated(value, _output(node))
        return value

    for inputs in batches:
        lockstep(simulation, inputs, visit)
    return [
        {
            "name": name,
            "bits": bits.get(name, BITS),
            "range": [found.low, found.high],
            "sqnr_db": sqnr_db(found.signal, found.noise),
            "saturated": found.saturated / found.values if found.values else None,
        }
        for name, found in figures.items()
    ]


def _output(node: Node) -> Any:
    """Give how what a node gives is encoded; None where it stays float."""
    annotation = node.meta.get(ANNOTATION)
    return annotation.output_qspec if annotation else None
