"""What can be said of a network before any job: its signature, size and layers."""

from __future__ import annotations

from pathlib import Path

from app.domain.errors import UnsupportedNetwork
from app.domain.model import Layer, ModelFacts, ModelFormat
from workers.compression.counting import count_macs, count_parameters, describe_layers
from workers.compression.distillation.blocks import find_blocks
from workers.compression.distillation.hints import survey
from workers.compression.formats.models import find_model
from workers.compression.network import Network
from workers.compression.pruning.groups import Groups, find_groups

OTHER_FLOATS = frozenset({"float64", "float16", "bfloat16", "complex64", "complex128"})
NO_CHANNELS = "it makes no channels"


def inspect_model(path: Path, format: ModelFormat) -> ModelFacts:  # noqa: A002 - the contract's own word
    """Read a model file and describe it."""
    network, way = find_model(path, format)
    _check_dtypes(network)
    trainable = not network.quantized and any(p.is_floating_point() for p in network.module.parameters())
    return ModelFacts(
        format=format,
        way=way,
        trainable=trainable,
        signature=network.signature,
        parameters=count_parameters(network),
        macs=count_macs(network),
        layers=group_layers(network),
        quantized=network.quantized,
        features={name: (layer.channels, *layer.places) for name, layer in survey(network).items()},
        blocks=tuple(block.layers for block in find_blocks(network)) if trainable else None,
    )


def _check_dtypes(network: Network) -> None:
    """Refuse other floats than float32, for which the target has no kernels or the steps no arithmetic."""
    dtypes = {f"the input {spec.name!r}": spec.dtype for spec in network.signature.inputs}
    dtypes |= {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in network.module.named_parameters()}
    for name, dtype in dtypes.items():
        if dtype in OTHER_FLOATS:
            raise UnsupportedNetwork(
                f"{name} is {dtype}; networks are taken in float32.", hint="Export model.float() with float32 inputs."
            )


def group_layers(network: Network) -> tuple[Layer, ...]:
    """Describe the layers with their groups, and say of each that cannot be pruned why."""
    groups = find_groups(network)
    names = groups.names()
    layers = []
    for layer in describe_layers(network):
        group = names.get(layer.name) or _followed(layer.name, groups, names)
        reason = None if group else groups.reasons.get(layer.name, NO_CHANNELS)
        layers.append(layer.model_copy(update={"group": group, "prunable": group is not None, "reason": reason}))
    return tuple(layers)


def _followed(name: str, groups: Groups, names: dict[str, str]) -> str | None:
    """Name the group whose channels a norm follows."""
    ids = groups.walk.dimensions.get((f"{name}.weight", 0))
    if ids is None or f"{name}.weight" in groups.walk.producers:
        return None
    mine = set(groups.labels[ids.numpy()].tolist()) & set(groups.units.tolist())
    return next((names[p.layer] for p in groups.producers if p.layer in names and mine & set(p.labels.tolist())), None)
