"""What layers inside teacher and student give, and the pairs of them that a student learns by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from app.domain.errors import ValidationFailed
from app.domain.steps.distill import HintPair
from workers.compression.distillation.losses import hint_loss
from workers.compression.inference import all_outputs
from workers.compression.network import Network

CHANNELS_FIRST = (_ConvNd, _BatchNorm, nn.GroupNorm)
_DEPTHS = (0.5, 1.0)
"""Where in the depth of networks whose stages differ in nothing a pair is suggested."""


class Features:
    """What named layers of a module gave when it last ran; ``training`` tells in which of its two modes to look."""

    def __init__(self, module: nn.Module, names: Sequence[str], *, training: bool) -> None:
        self.seen: dict[str, Tensor] = {}
        self._handles = [self._watch(module.get_submodule(name), name, training) for name in set(names)]

    def _watch(self, layer: nn.Module, name: str, training: bool) -> Any:  # noqa: FBT001 - one caller, right above
        def keep(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            # Held-out rows run through the same module, in eval mode: what they give is nobody's.
            if layer.training == training:
                self.seen[name] = output

        return layer.register_forward_hook(keep)

    def take(self) -> dict[str, Tensor]:
        """Give what was seen, once, so that no graph is kept for longer than its batch."""
        seen, self.seen = self.seen, {}
        return seen

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


@dataclass(frozen=True)
class Layer:
    """A layer as it ran on example rows: what it gives has ``channels`` along ``axis``, and ``places`` without them."""

    name: str
    kind: type[nn.Module]
    axis: int
    channels: int
    places: tuple[int, ...]


class Hints:
    """Pairs of layers, with an adapter for each from the student's channels to the teacher's."""

    def __init__(self, teacher: Network, student: Network, pairs: Sequence[HintPair]) -> None:
        there, here = survey(teacher), survey(student)
        self.pairs = tuple(pairs) or suggest(there, here)
        if not self.pairs:
            raise ValidationFailed(
                "no layers of teacher and student match by the size of what they give; the teacher has"
                f" {_listed(there)}, the student {_listed(here)}",
                hint="Name pairs of layers as hints, or leave hint out.",
            )
        self.matched = [
            (_find(there, pair.teacher, "teacher"), _find(here, pair.student, "student")) for pair in self.pairs
        ]
        for theirs, ours in self.matched:
            if theirs.places != ours.places:
                raise ValidationFailed(
                    f"{ours.name} of the student gives {list(ours.places)} places a row, {theirs.name} of the teacher"
                    f" {list(theirs.places)}: a 1x1 adapter changes channels alone",
                    hint="Pair layers of the same size.",
                )
        self._features: Features | None = None
        self._adapters: nn.ModuleList | None = None

    def attach(self, module: nn.Module) -> nn.Module:
        """Watch this module from now on, and no other; give the adapters that learn beside it."""
        self.close()
        self._features = Features(module, [pair.student for pair in self.pairs], training=True)
        self._adapters = nn.ModuleList(
            nn.Linear(ours.channels, theirs.channels, bias=False) for theirs, ours in self.matched
        )
        return self._adapters

    def loss(self, teacher: dict[str, Tensor]) -> Tensor:
        """Give the mean of the pairs' losses for the batch that both have just run on."""
        assert self._features is not None
        assert self._adapters is not None
        student = self._features.take()
        losses = []
        for (theirs, ours), adapter in zip(self.matched, self._adapters, strict=True):
            # A 1x1 convolution is a linear layer over the channels of each place.
            adapted = adapter(student[ours.name].float().movedim(ours.axis, -1))
            losses.append(hint_loss(adapted, teacher[theirs.name].float().movedim(theirs.axis, -1)))
        return torch.stack(losses).mean()

    def close(self) -> None:
        if self._features is not None:
            self._features.close()

    def describe(self) -> list[dict[str, str]]:
        return [pair.model_dump() for pair in self.pairs]


@contextmanager
def watching(module: nn.Module, names: Sequence[str]) -> Iterator[Features]:
    """Watch layers of a module at rest while the block runs."""
    features = Features(module, names, training=False)
    try:
        yield features
    finally:
        features.close()


def survey(network: Network) -> dict[str, Layer]:
    """Run a network on example rows; give its layers by name, in the order in which they ran.

    Layers whose own result is one of the network's outputs are left out: those are imitated as outputs.
    """
    called = [str(node.target) for node in network.module.graph.find_nodes(op="call_module")]
    names = [name for name in dict.fromkeys(called) if not isinstance(network.module.get_submodule(name), nn.Dropout)]
    with watching(network.module, names) as features, torch.no_grad():
        outputs = all_outputs(network.module(*network.example_inputs()))
        seen = features.take()
    found = {}
    for name in names:
        value = seen.get(name)
        if value is None or value.dim() < 2 or any(value is output for output in outputs):
            continue
        layer = network.module.get_submodule(name)
        axis = 1 if _is_channels_first(layer, value) else value.dim() - 1
        places = tuple(size for place, size in enumerate(value.shape) if place not in {0, axis})
        found[name] = Layer(name, type(layer), axis, value.shape[axis], places)
    return found


def _is_channels_first(layer: nn.Module, value: Tensor) -> bool:
    if isinstance(layer, nn.LayerNorm):
        # Over all of a row, [channels, height, width], it stands among convolutions; over positions and a width, it
        # does not.
        return value.dim() > 3 and len(layer.normalized_shape) == value.dim() - 1
    return isinstance(layer, CHANNELS_FIRST)


def suggest(teacher: dict[str, Layer], student: dict[str, Layer]) -> tuple[HintPair, ...]:
    """Pair the last layers of stages that match.

    A stage is what gives the same number of places, as the sizes of images part a convolutional network. Where there is
    but one in common, as in a transformer, layers in the middle of the depth and at its end are paired, of those that
    give the width most common there and of the kind that ends last.
    """
    shared = [places for places in dict.fromkeys(layer.places for layer in teacher.values()) if _has(student, places)]
    if len(shared) > 1:
        return tuple(HintPair(teacher=_last(teacher, places), student=_last(student, places)) for places in shared)
    pairs = []
    for places in shared:
        theirs, ours = _stream(teacher, places), _stream(student, places)
        pairs += [HintPair(teacher=_at(theirs, share), student=_at(ours, share)) for share in _DEPTHS]
    return tuple(dict.fromkeys(pairs))


def _has(layers: dict[str, Layer], places: tuple[int, ...]) -> bool:
    return any(layer.places == places for layer in layers.values())


def _last(layers: dict[str, Layer], places: tuple[int, ...]) -> str:
    return [name for name, layer in layers.items() if layer.places == places][-1]


def _stream(layers: dict[str, Layer], places: tuple[int, ...]) -> list[str]:
    there = [layer for layer in layers.values() if layer.places == places]
    (width, _), *_ = Counter(layer.channels for layer in there).most_common(1)
    wide = [layer for layer in there if layer.channels == width]
    return [layer.name for layer in wide if layer.kind is wide[-1].kind]


def _at(names: Sequence[str], share: float) -> str:
    return names[math.ceil(len(names) * share) - 1]


def _find(layers: dict[str, Layer], name: str, whose: str) -> Layer:
    if name not in layers:
        raise ValidationFailed(
            f"the {whose} has no layer named {name!r} that a hint can be of; it has {_listed(layers)}",
            hint="Layers are named as in the model's list of layers.",
        )
    return layers[name]


def _listed(layers: dict[str, Layer]) -> str:
    return ", ".join(f"{layer.name} {[layer.channels, *layer.places]}" for layer in layers.values()) or "none"
