"""Layers exchanged one by one for others that store their weights in fewer bits."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from app.domain.errors import NoChange, NothingToQuantize
from workers.compression.counting import OPS
from workers.compression.network import Network
from workers.compression.quantization.folding import fold_batch_norms
from workers.compression.quantization.products import adopt_products
from workers.compression.quantization.static import CALIBRATION_BATCH, SPLIT, calibration_rows
from workers.compression.quantization.stored import StoredLayer
from workers.compression.step import Context

Make = Callable[[Any], StoredLayer]
"""Gives what takes a layer's place."""


@dataclass(frozen=True)
class Swapped:
    """The network before, with batch norms folded, and after; which layers changed, by name."""

    before: Network
    after: Network
    layers: Mapping[str, StoredLayer]
    kept: tuple[str, ...]
    """Layers that stay as they are, since they would be stored in no fewer bytes."""

    def details(self, bits: Mapping[str, int], inputs: tuple[Tensor, ...] | None) -> dict[str, Any]:
        """Tell what was done, for the report; SQNR on ``inputs`` where there are any."""
        figures = layer_sqnr(self.before, self.after, tuple(self.layers), inputs) if inputs else {}
        return {
            "layers_quantized": len(self.layers),
            "layers_too_small": list(self.kept),
            "bytes_before": stored_bytes(self.before.module),
            "bytes_after": stored_bytes(self.after.module),
            "layers": [
                {
                    "name": name,
                    "bits": bits[name],
                    "range": list(figures[name][0]) if name in figures else None,
                    "sqnr_db": figures[name][1] if name in figures else None,
                    "saturated": layer.saturated,
                }
                for name, layer in self.layers.items()
            ],
        }


def swap_layers(network: Network, makers: Mapping[type[nn.Module], Make], exclude: Sequence[str]) -> Swapped:
    """Put what the makers give in the place of every layer of their kinds that none of the patterns names.

    Raises:
        NothingToQuantize: there is no such layer.
        NoChange: none would be stored in fewer bytes.
    """
    module = fold_batch_norms(network.module)
    adopt_products(module)
    before = replace(network, module=module)
    found = {
        name: part
        for name, part in module.named_modules()
        if type(part) in makers and not any(_names(pattern, name, part) for pattern in exclude)
    }
    if not found:
        kinds = ", ".join(sorted(kind.__name__ for kind in makers))
        others = ", ".join(f"{name} ({type(part).__name__})" for name, part in _weighted(module)[:20])
        raise NothingToQuantize(
            f"No layer is left for this scheme, which takes {kinds}; there are: {others or 'none'}."
        )
    after = copy.deepcopy(module)
    layers: dict[str, StoredLayer] = {}
    kept = []
    for name, part in found.items():
        made = makers[type(part)](part).eval()
        if stored_bytes(made) < stored_bytes(part):
            after.set_submodule(name, made)
            layers[name] = made
        else:
            kept.append(name)
    if not layers:
        raise NoChange(
            f"No layer would be stored in fewer bytes than it is now: {', '.join(kept)}.",
            hint="Scales and full groups cost bytes too: take smaller groups, or leave so small a network as it is.",
        )
    after.recompile()
    result = replace(network, module=after, quantized=True)
    return Swapped(before, result, layers, tuple(kept))


def sample_rows(network: Network, context: Context) -> tuple[Tensor, ...] | None:
    """Give the first calibration rows, to judge layers on; None where there are none."""
    if not context.data.rows(SPLIT):
        return None
    return calibration_rows(network, context, CALIBRATION_BATCH)[0]


def stored_bytes(module: nn.Module) -> int:
    """Count the bytes of all parameters and buffers, those that are shared once."""
    return sum(value.nbytes for value in module.state_dict().values())


def layer_sqnr(
    before: Network, after: Network, names: Sequence[str], inputs: tuple[Tensor, ...]
) -> dict[str, tuple[tuple[float, float], float | None]]:
    """Give for each layer the range of its float output and 10·log10(Σy² / Σ(y−ŷ)²) over the rows.

    ŷ is the output inside the quantized network, so that the errors of all layers before it are part of it.
    None stands for an error of zero.
    """
    expected, actual = (_record(network.module, names, inputs) for network in (before, after))
    figures: dict[str, tuple[tuple[float, float], float | None]] = {}
    for name in names:
        if name not in expected:
            continue
        y, noise = expected[name].double(), float((expected[name].double() - actual[name].double()).square().sum())
        signal = float(y.square().sum())
        sqnr = 10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else None
        figures[name] = ((float(y.min()), float(y.max())), sqnr)
    return figures


def _record(module: fx.GraphModule, names: Sequence[str], inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}
    handles = [
        module.get_submodule(name).register_forward_hook(lambda _part, _args, out, name=name: kept.update({name: out}))
        for name in names
    ]
    with torch.no_grad():
        module(*inputs)
    for handle in handles:
        handle.remove()
    return kept


def _names(pattern: str, name: str, part: nn.Module) -> bool:
    return fnmatchcase(name, pattern) or any(isinstance(part, kind) and op == pattern for kind, op in OPS)


def _weighted(module: nn.Module) -> list[tuple[str, nn.Module]]:
    parts = dict(module.named_modules())
    return [(name, part) for name, part in parts.items() if name and isinstance(getattr(part, "weight", None), Tensor)]
