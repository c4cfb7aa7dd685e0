"""The formats that networks are read from, by the names that the API has for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.domain.model import ModelFormat
from workers.compression.formats import huggingface, pt2
from workers.compression.formats.onnx_import import reading
from workers.compression.network import Network

READERS: dict[ModelFormat, Callable[[Path], Network]] = {
    "pt2": pt2.load,
    "onnx": reading.load,
    "huggingface": huggingface.load,
}


def load_model(path: Path, format: ModelFormat) -> Network:  # noqa: A002 - the contract's own word
    """Read a file that was admitted.

    Raises:
        CorruptFile: the file is damaged.
        UnsupportedNetwork: it does something that no :class:`Network` can.
    """
    return READERS[format](path)
