"""Whether a step that prunes, or analyzes what pruning would cost, has something to remove."""

from app.domain.compatibility.refusal import (
    at_items,
    at_keys,
    check_patterns,
    is_named,
    listed,
    refuse,
    with_operator,
)
from app.domain.errors import NothingToPrune, NotTrainable, RecipeOrder, ValidationFailed
from app.domain.job import JobSpec
from app.domain.model import Layer, ModelFacts
from app.domain.steps.prune import PruneSpec

_WITH_WEIGHTS = ("conv", "linear")


def check_analysis(spec: JobSpec) -> None:
    for position, step in enumerate(spec.recipe):
        if not isinstance(step, PruneSpec) or not step.analyze:
            continue
        if len(spec.recipe) > 1:
            message = "An analysis is the only step of its job: it changes nothing that others could go on with."
            raise refuse(RecipeOrder, f"/recipe/{position}", message)
        if spec.objective is not None:
            message = "An analysis compresses nothing that an objective could judge."
            raise refuse(ValidationFailed, "/objective", message)


def check(step: PruneSpec, model: ModelFacts, pointer: str) -> None:
    """Raise the first reason for which the step could only fail."""
    layers = _prunable(step, model)
    if step.granularity == "channel" and not layers:
        told = listed(model.layers, lambda layer: f"{with_operator(layer)}: {layer.reason}", between="; ")
        raise refuse(NothingToPrune, pointer, f"No layer can lose channels; there are: {told}.")
    _check_criterion(step, model, f"{pointer}/criterion")
    placed = at_items(f"{pointer}/exclude", step.exclude) + at_keys(f"{pointer}/overrides", step.overrides)
    check_patterns(placed, layers, "can be pruned", is_named)
    _check_left(step, layers, pointer)


def _check_criterion(step: PruneSpec, model: ModelFacts, pointer: str) -> None:
    if step.criterion == "taylor" and not model.trainable:
        message = "taylor takes gradients, and this network was exported without a way to."
        raise refuse(NotTrainable, pointer, message)
    if step.criterion == "bn_scale" and not any(layer.op == "batch_norm" and layer.prunable for layer in model.layers):
        message = "bn_scale reads the scales of batch norms, and none of this network's scales channels that can go."
        raise refuse(NothingToPrune, pointer, message)


def _prunable(step: PruneSpec, model: ModelFacts) -> list[Layer]:
    """List the layers that the step's granularity speaks of: single weights are those of convolutions and products."""
    if step.granularity == "channel":
        return [layer for layer in model.layers if layer.prunable]
    return [layer for layer in model.layers if layer.op.startswith(_WITH_WEIGHTS)]


def _check_left(step: PruneSpec, layers: list[Layer], pointer: str) -> None:
    """Raise NothingToPrune where no layer is left that the step could change."""
    left = [layer for layer in layers if not any(is_named(pattern, layer) for pattern in step.exclude)]
    if layers and not left:
        message = f"Every layer that can be pruned is excluded: {listed(layers, _name)}."
        raise refuse(NothingToPrune, f"{pointer}/exclude", message, "Exclude fewer layers.")
    stays = not any(step.overrides.values()) and all(
        any(is_named(pattern, layer) for pattern in step.overrides) for layer in left
    )
    if left and stays:
        message = "The overrides leave every layer whole: each that can be pruned has the amount 0."
        raise refuse(NothingToPrune, f"{pointer}/overrides", message, "Give an amount above 0 to one layer at least.")
    if step.granularity == "channel":
        _check_floors(step, left, pointer)
        return
    if step.criterion == "wanda" and not any(layer.op == "linear" and layer.quantizable for layer in left):
        message = f"wanda scores linear layers only, and none is left; there are: {listed(left, _name)}."
        raise refuse(NothingToPrune, f"{pointer}/criterion", message, "Choose l1.")
    if step.kept and not any(_entering(layer) % step.kept[1] == 0 for layer in left):
        inputs = listed(left, lambda layer: f"{layer.name} has {_entering(layer)}")
        message = f"{step.granularity} needs a layer whose inputs {step.kept[1]} divides; there are: {inputs}."
        raise refuse(NothingToPrune, f"{pointer}/granularity", message)


def _check_floors(step: PruneSpec, left: list[Layer], pointer: str) -> None:
    makers = [layer for layer in left if "norm" not in layer.op]
    known = bool(makers) and all(layer.op.startswith(_WITH_WEIGHTS) for layer in makers)
    # A layer may hold its channels along either of the first two dimensions of its weight, heads even several times.
    if known and step.minimum_channels >= max(max(layer.weight_shape[:2]) for layer in makers):
        message = f"No layer has more channels than minimum_channels, {step.minimum_channels}."
        raise refuse(NothingToPrune, f"{pointer}/minimum_channels", message, "Lower it.")


def _entering(layer: Layer) -> int:
    """Give the size of the dimension along which n:m works."""
    if layer.op == "linear":
        return layer.weight_shape[-1]
    return layer.weight_shape[0 if layer.op.startswith("conv_transpose") else 1]


def _name(layer: Layer) -> str:
    return layer.name
