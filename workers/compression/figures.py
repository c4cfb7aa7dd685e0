"""What a network consists of, for the report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from app.domain.report import LayerFigures, StepOutcome
from workers.compression.counting import (
    count_macs,
    count_nonzero_parameters,
    count_parameters,
    describe_layers,
    find_weights,
)
from workers.compression.network import Network


@dataclass(frozen=True)
class Counts:
    """Size of a network; ``macs`` are for one row."""

    parameters: int
    nonzero_parameters: int
    macs: int

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def count(network: Network) -> Counts:
    return Counts(
        parameters=count_parameters(network),
        nonzero_parameters=count_nonzero_parameters(network),
        macs=count_macs(network),
    )


def layer_figures(network: Network, steps: Sequence[StepOutcome]) -> tuple[LayerFigures, ...]:
    """Describe the layers of the last network in float, with what quantization then made of each."""
    quantized = {layer["name"]: layer for step in steps for layer in step.details.get("layers", ()) if "bits" in layer}
    figures = []
    weights = find_weights(network)
    for layer in describe_layers(network):
        weight = network.module.get_parameter(weights[layer.name][1])
        made = quantized.get(layer.name, {})
        figures.append(
            LayerFigures(
                name=layer.name,
                sparsity=float((weight == 0).double().mean()),
                bits=made.get("bits", torch.finfo(weight.dtype).bits),
                sqnr_db=made.get("sqnr_db"),
                range=made.get("range"),
                saturated=made.get("saturated"),
                parameters=layer.parameters,
                macs=layer.macs,
            )
        )
    return tuple(figures)
