"""What a network of ``transformers`` takes: tokens with their mask, or pixels; told by its class and configuration."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.transformers_classes import EXPORT

TOKENS, MASK, PIXELS = "input_ids", "attention_mask", "pixel_values"
EXAMPLE_TOKENS = 128
"""The length that a network for texts is exported with, and for which its work is counted; at most the longest."""
OTHER_TOKENS = 7
_HIDDEN_TOKENS = 2
_IMAGE_SIZE = 224
_MAX_TOKENS = 1 << 20
_MAX_PIXELS = 1 << 24
Dynamic = tuple[dict[int, Dim], ...]
"""For each input, its dynamic dimensions."""


@dataclass(frozen=True)
class Texts:
    """Rows of tokens, of any length up to the ``longest`` that there are places for."""

    names: tuple[str, ...]
    vocabulary: int
    longest: int | None

    def rows(self, count: int, *, other: bool = False) -> tuple[Tensor, ...]:
        """Draw tokens, the last of the first row hidden; of the length of an example, or of another."""
        length = min(OTHER_TOKENS if other else EXAMPLE_TOKENS, self.longest or EXAMPLE_TOKENS)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.vocabulary, (count, length), generator=generator)
        mask = torch.ones_like(tokens)
        mask[0, -_HIDDEN_TOKENS:] = 0
        return (tokens, mask)[: len(self.names)]

    def dynamic(self) -> tuple[Dynamic, ...]:
        """Give what may be dynamic, most first."""
        batch, length = Dim("batch"), Dim("tokens", min=2, max=self.longest)
        return tuple({0: batch, 1: length} for _ in self.names), tuple({0: batch} for _ in self.names)


@dataclass(frozen=True)
class Images:
    """Rows of pixels, channels first, of one size."""

    shape: tuple[int, int, int]
    names: tuple[str, ...] = (PIXELS,)

    def rows(self, count: int, *, other: bool = False) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(int(other))
        return (torch.randn(count, *self.shape, generator=generator),)

    def dynamic(self) -> tuple[Dynamic, ...]:
        return (({0: Dim("batch")},),)


Input = Texts | Images


def inputs_of(network: nn.Module, preprocessor: dict[str, Any]) -> Input:
    """Tell what a network takes. Raises UnsupportedNetwork where that is neither a text nor an image."""
    config: Any = network.config
    main = getattr(network, "main_input_name", None)
    if main == TOKENS:
        taken = inspect.signature(type(network).forward).parameters
        names = (TOKENS, MASK) if MASK in taken else (TOKENS,)
        return Texts(names, int(config.vocab_size), _longest(network))
    if main == PIXELS:
        return Images(_image_shape(config, preprocessor))
    raise UnsupportedNetwork(f"The network takes {main}; read are networks that take texts or images.", hint=EXPORT)


def _longest(network: nn.Module) -> int | None:
    """Count the places that there are for tokens, less those that the table keeps for padding."""
    places = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(places, int) or not 2 <= places <= _MAX_TOKENS:
        return None
    for name, part in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            return places - part.padding_idx - 1
    return places


def _image_shape(config: Any, preprocessor: dict[str, Any]) -> tuple[int, int, int]:
    """Read channels and size off the configuration, else off that of the images; 224 where neither says."""
    config = getattr(config, "vision_config", config)  # of networks that take texts as well
    told = (getattr(config, "image_size", None), preprocessor.get("crop_size"), preprocessor.get("size"))
    height, width = next((size for size in map(_size, told) if size is not None), (_IMAGE_SIZE, _IMAGE_SIZE))
    channels = int(getattr(config, "num_channels", 3))
    if not 0 < channels * height * width <= _MAX_PIXELS:
        message = (
            f"The network takes images of {channels} × {height} × {width}; at most {_MAX_PIXELS} numbers are read."
        )
        raise UnsupportedNetwork(message, hint=EXPORT)
    return channels, height, width


def _size(told: Any) -> tuple[int, int] | None:
    match told:
        case int(side) | [int(side)] | {"shortest_edge": int(side)}:
            return side, side
        case [int(height), int(width)] | (int(height), int(width)) | {"height": int(height), "width": int(width)}:
            return height, width
        case _:
            return None
