"""Layers exchanged one by one for others that store their weights in fewer bits."""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from app.domain.errors import NoChange, NothingToQuantize
from app.domain.steps.quantize import QuantizeSpec
from workers.compression.counting import OPS
from workers.compression.network import Network
from workers.compression.quantization.calibration import SPLIT, Inputs, calibration_rows
from workers.compression.quantization.control import Control, resolve
from workers.compression.quantization.folding import fold_batch_norms
from workers.compression.quantization.noise import energy, sqnr_db
from workers.compression.quantization.products import adopt_products
from workers.compression.quantization.stored import StoredLayer
from workers.compression.step import Context

Make = Callable[[Any, int | None], StoredLayer]
"""Gives what takes a layer's place, with bits of its own where an override names some."""


@dataclass(frozen=True)
class Swapped:
    """The network before, with batch norms folded, and after; which layers changed, by name."""

    before: Network
    after: Network
    layers: Mapping[str, StoredLayer]
    paths: Mapping[str, str]
    """The module that each layer is, by the layer's name."""
    kept: tuple[str, ...] = ()
    """Layers that stay as they are, since they would be stored in no fewer bytes."""
    control: Control = field(default_factory=lambda: Control(frozenset(), {}))
    returned: frozenset[str] = frozenset()
    """Layers that an objective has put back."""

    def put_back(self, names: frozenset[str]) -> "Swapped":
        """Give the same with some layers in float again."""
        after = self.after.clone()
        for name in names:
            path = self.paths[name]
            after.module.set_submodule(path, copy.deepcopy(self.before.module.get_submodule(path)))
        layers = {name: layer for name, layer in self.layers.items() if name not in names}
        return replace(self, after=after, layers=layers, returned=names)

    def details(self, inputs: Inputs | None) -> dict[str, Any]:
        """Tell what was done, for the report; SQNR on ``inputs`` where there are any."""
        figures = self.figures(inputs) if inputs else {}
        return {
            "layers_quantized": len(self.layers),
            "layers_too_small": list(self.kept),
            "bytes_before": stored_bytes(self.before.module),
            "bytes_after": stored_bytes(self.after.module),
            "floats": self.control.reasons(self.returned),
            "layers": [
                {
                    "name": name,
                    "bits": layer.bits,
                    "range": list(figures[name][0]) if name in figures else None,
                    "sqnr_db": figures[name][1] if name in figures else None,
                    "saturated": layer.saturated,
                }
                for name, layer in self.layers.items()
            ],
        }

    def figures(self, inputs: Inputs) -> dict[str, tuple[tuple[float, float], float | None]]:
        """Give for each layer the range of its float output and 10·log10(Σy² / Σ(y−ŷ)²) over the rows.

        ŷ is the output inside the quantized network, so that the errors of all layers before it are part of it.
        None stands for an error of zero.
        """
        paths = [self.paths[name] for name in self.layers]
        expected, actual = (_record(network.module, paths, inputs) for network in (self.before, self.after))
        figures: dict[str, tuple[tuple[float, float], float | None]] = {}
        for name, path in zip(self.layers, paths, strict=True):
            if path not in expected:
                continue
            y = expected[path]
            figures[name] = ((float(y.min()), float(y.max())), sqnr_db(energy(y), energy(y - actual[path])))
        return figures


def swap_layers(network: Network, makers: Mapping[type[nn.Module], Make], spec: QuantizeSpec) -> Swapped:
    """Put what the makers give in the place of every layer of their kinds that the spec does not leave out.

    Raises:
        ValidationFailed: a pattern matches no such layer.
        NothingToQuantize: there is no such layer, or none is left.
        NoChange: none would be stored in fewer bytes.
    """
    module = fold_batch_norms(network.module)
    paths = _layers(module, adopt_products(module), makers)
    operators = {name: _operator(module.get_submodule(path)) for name, path in paths.items()}
    control = resolve(spec, operators, frozenset(paths)) if paths else Control(frozenset(), {})
    taken = {name: path for name, path in paths.items() if name not in control.floats}
    if not taken:
        kinds = ", ".join(sorted(kind.__name__ for kind in makers))
        others = ", ".join(f"{name} ({type(part).__name__})" for name, part in _weighted(module)[:20])
        raise NothingToQuantize(
            f"No layer is left for this scheme, which takes {kinds}; there are: {others or 'none'}."
        )
    after = copy.deepcopy(module)
    layers: dict[str, StoredLayer] = {}
    kept = []
    for name, path in taken.items():
        part = module.get_submodule(path)
        made = makers[type(part)](part, control.bits.get(name)).eval()
        if stored_bytes(made) < stored_bytes(part):
            after.set_submodule(path, made)
            layers[name] = made
        else:
            kept.append(name)
    if not layers:
        raise NoChange(
            f"No layer would be stored in fewer bytes than it is now: {', '.join(kept)}.",
            hint="Scales and full groups cost bytes too: take smaller groups, or leave so small a network as it is.",
        )
    after.recompile()
    before, result = replace(network, module=module), replace(network, module=after, quantized=True)
    return Swapped(before, result, layers, paths, tuple(kept), control)


def sample_rows(network: Network, spec: QuantizeSpec, context: Context) -> Inputs | None:
    """Give the first batch of calibration rows, to judge layers on; None where there are none."""
    if not context.data.rows(SPLIT):
        return None
    return calibration_rows(network, context, spec.batch_size, spec.batch_size)[0]


def stored_bytes(module: nn.Module) -> int:
    """Count the bytes of all parameters and buffers, those that are shared once."""
    return sum(value.nbytes for value in module.state_dict().values())


def _layers(module: fx.GraphModule, adopted: Mapping[str, str], kinds: Collection[type[nn.Module]]) -> dict[str, str]:
    """Give name and module of each layer of the kinds; a name that two would have, the second's module keeps."""
    found: dict[str, str] = {}
    for path, part in module.named_modules():
        if type(part) in kinds:
            name = adopted.get(path, path)
            found[path if name in found else name] = path
    return found


def _record(module: fx.GraphModule, paths: Collection[str], inputs: Inputs) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}
    handles = [
        module.get_submodule(path).register_forward_hook(lambda _part, _args, out, path=path: kept.update({path: out}))
        for path in paths
    ]
    with torch.no_grad():
        module(*inputs)
    for handle in handles:
        handle.remove()
    return kept


def _operator(part: nn.Module) -> str:
    return next(op for kind, op in OPS if isinstance(part, kind))


def _weighted(module: nn.Module) -> list[tuple[str, nn.Module]]:
    parts = dict(module.named_modules())
    return [(name, part) for name, part in parts.items() if name and isinstance(getattr(part, "weight", None), Tensor)]
