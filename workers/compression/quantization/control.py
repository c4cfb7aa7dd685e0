"""Which layers a user leaves out or treats in another way, by name, pattern or operator."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch.fx import GraphModule

from app.domain.errors import ValidationFailed
from app.domain.steps.quantize import LayerOverride, QuantizeSpec
from workers.compression.lifting import op_name
from workers.compression.quantization import kernels

_MOST_NAMED = 40


@dataclass(frozen=True)
class Control:
    """What departs from quantizing all that has an integer kernel, by layer or by the graph's name of an operator."""

    floats: frozenset[str]
    overrides: Mapping[str, LayerOverride]
    without_kernel: frozenset[str] = frozenset()
    """What computes in float since the runtime has no integers for it."""

    @property
    def bits(self) -> dict[str, int]:
        return {name: override.bits for name, override in self.overrides.items() if override.bits is not None}

    def reasons(self, returned: AbstractSet[str]) -> dict[str, str]:
        """Say of what stays in float why it does; ``returned`` is what the objective gave back."""
        return (
            dict.fromkeys(sorted(self.without_kernel), "no integer kernel")
            | dict.fromkeys(sorted(self.floats), "left out")
            | dict.fromkeys(sorted(returned), "objective")
        )

    @property
    def observers(self) -> dict[str, str]:
        return {name: override.observer for name, override in self.overrides.items() if override.observer is not None}


def resolve(
    spec: QuantizeSpec,
    operators: Mapping[str, str],
    layers: frozenset[str],
    without_kernel: Mapping[str, str] | None = None,
) -> Control:
    """Find what each pattern of a spec means.

    ``operators`` holds name and operator of all that can be quantized, ``without_kernel`` of what cannot be: to exclude
    that is no mistake.

    Raises:
        ValidationFailed: a pattern matches nothing.
    """
    included = _matched("include", spec.include, operators, layers) & layers if spec.include else layers
    beside = {} if without_kernel is None else without_kernel
    excluded = _matched("exclude", spec.exclude, {**beside, **operators}, layers) - beside.keys()
    overrides: dict[str, LayerOverride] = {}
    of_layers = {name: operators[name] for name in operators if name in layers}
    for pattern, override in spec.ranked_overrides(layers):
        for name in sorted(_matched("overrides", (pattern,), of_layers, layers)):
            overrides.setdefault(name, override)
    kept = {name for name, override in overrides.items() if override.keep_float}
    return Control(frozenset((layers - included) | excluded | kept), overrides, frozenset(beside))


def named_operators(module: GraphModule, quantizable: frozenset[object]) -> dict[str, str]:
    """Give the name and the operator of every node of a kind that can be quantized."""
    return {
        kernels.layer_name(node): op_name(node)
        for node in module.graph.nodes
        if node.op == "call_function" and node.target in quantizable
    }


def without_kernel(module: GraphModule) -> dict[str, str]:
    """Give the name and the operator of layers and activations that compute in float whatever is chosen."""
    return {kernels.layer_name(node): op_name(node) for node in module.graph.nodes if kernels.runs_in_float(node)}


def _matched(field: str, patterns: tuple[str, ...], operators: Mapping[str, str], layers: AbstractSet[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        # What a layer is called goes before what an operator is.
        names = {pattern} & layers or {
            name for name, op in operators.items() if op == pattern or fnmatchcase(name, pattern)
        }
        if not names:
            known = ", ".join(f"{name} ({op})" for name, op in list(operators.items())[:_MOST_NAMED])
            raise ValidationFailed(
                f"{field}: nothing that can be quantized is named {pattern!r}; there are: {known or 'none'}."
            )
        found |= names
    return found
