"""Whether a step that quantizes has layers to work on, and patterns that mean some."""

from collections.abc import Sequence
from functools import partial

from app.domain.compatibility.refusal import (
    at_items,
    at_keys,
    check_patterns,
    is_named,
    listed,
    refuse,
    with_operator,
)
from app.domain.errors import NothingToQuantize, UnsupportedPrecision, ValidationFailed
from app.domain.model import Layer, ModelFacts
from app.domain.steps.quantize import OPERATORS, PRECISIONS, WILDCARDS, QuantizeSpec
from app.domain.target import BY_NAME

_WITHOUT_SPACE = frozenset({"linear", "embedding"})
_WITH_WEIGHTS = ("conv", "linear", "embedding")


def check(step: QuantizeSpec, target: str, model: ModelFacts, pointer: str, *, gated: bool) -> None:
    """Raise the first reason for which the step could only fail; ``gated`` says that the job has an objective."""
    _check_meaning(step, pointer, gated=gated)
    precision = PRECISIONS[step.weights]
    if precision not in BY_NAME[target].precisions:
        message = f"{target} runs nothing stored as {precision}; it has {', '.join(BY_NAME[target].precisions)}."
        raise refuse(UnsupportedPrecision, f"{pointer}/weights", message)
    layers = [layer for layer in model.layers if _takes(step, layer)]
    if not layers or (step.calibrates and not any(layer.quantizable for layer in layers)):
        there = listed(model.layers, with_operator)
        message = f"No layer can be quantized by the scheme {step.scheme}; there are: {there}."
        raise refuse(NothingToQuantize, pointer, message)
    _check_layers(step, layers, model, pointer)
    names = frozenset(layer.name for layer in layers)
    if all(_stays_float(step, layer, names) for layer in layers):
        place = f"{pointer}/exclude" if step.exclude else pointer
        raise refuse(NothingToQuantize, place, "Every layer that could be quantized is left in float.")


def _check_meaning(step: QuantizeSpec, pointer: str, *, gated: bool) -> None:
    """Refuse fields that nothing of the job would read."""
    idle = {} if gated else dict.fromkeys(("evaluations", "gate_rows"), "an objective, and the job has none")
    if not step.takes_percentile:
        idle["percentile"] = f"the observer of that name, and the step's is {step.observer}"
    for name, about in idle.items():
        if getattr(step, name) != QuantizeSpec.model_fields[name].default:
            raise refuse(ValidationFailed, f"{pointer}/{name}", f"{name} is about {about}.")


def _takes(step: QuantizeSpec, layer: Layer) -> bool:
    if step.packs or step.scheme == "dynamic":
        return layer.op in _WITHOUT_SPACE
    if step.calibrates:
        # The tables of embeddings go along, and no network is quantized for them alone.
        return layer.quantizable or layer.op == "embedding"
    return layer.op.startswith(_WITH_WEIGHTS)


def _check_layers(step: QuantizeSpec, layers: Sequence[Layer], model: ModelFacts, pointer: str) -> None:
    """Refuse patterns that match no layer, and widths of what has one only.

    Where a graph is quantized, ``exclude`` may mean an operator without weights, which only the run knows, or a layer
    that is in float anyway.
    """
    overrides = at_keys(f"{pointer}/overrides", step.overrides)
    placed = at_items(f"{pointer}/include", step.include) + overrides
    if not step.calibrates:
        placed += at_items(f"{pointer}/exclude", step.exclude)
    if step.calibrates:
        _check_exclude(step, model, pointer)
    matches = partial(_matches, names=frozenset(layer.name for layer in layers))
    check_patterns(placed, layers, f"{step.scheme} quantizes", matches)
    for place, pattern in overrides:
        override, matched = step.overrides[pattern], [layer for layer in layers if matches(pattern, layer)]
        if step.calibrates and override.bits is not None and all(layer.op == "embedding" for layer in matched):
            message = f"The table of {matched[0].name} is of bytes; bits are for layers that multiply."
            raise refuse(ValidationFailed, f"{place}/bits", message)


def _check_exclude(step: QuantizeSpec, model: ModelFacts, pointer: str) -> None:
    """Refuse what is the name of no layer, and cannot be that of an operator in the graph either."""
    names = frozenset(layer.name for layer in model.layers)
    for place, pattern in at_items(f"{pointer}/exclude", step.exclude):
        begin = WILDCARDS.split(pattern, maxsplit=1)[0]
        operator = any(name.startswith(begin) or begin.startswith(name) for name in OPERATORS)
        if not operator and not any(_matches(pattern, layer, names) for layer in model.layers):
            there = listed(model.layers, with_operator)
            message = f"No layer or operator that is quantized is named {pattern!r}; there are: {there}."
            raise refuse(ValidationFailed, place, message)


def _stays_float(step: QuantizeSpec, layer: Layer, names: frozenset[str]) -> bool:
    if step.include and not any(_matches(pattern, layer, names) for pattern in step.include):
        return True
    if any(_matches(pattern, layer, names) for pattern in step.exclude):
        return True
    ranked = step.ranked_overrides(names)
    override = next((given for pattern, given in ranked if _matches(pattern, layer, names)), None)
    return override is not None and override.keep_float


def _matches(pattern: str, layer: Layer, names: frozenset[str]) -> bool:
    """Tell whether a pattern means a layer; what a layer is called goes before what an operator is."""
    return layer.name == pattern if pattern in names else layer.op == pattern or is_named(pattern, layer)
