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


def find_model(path: Path, format: ModelFormat) -> tuple[Network, int | None]:  # noqa: A002 - the contract's own word
    """Read a file for the first time; tell which way of reading it held, null where its format has but one."""
    return reading.find(path) if format == "onnx" else (READERS[format](path), None)


def load_model(path: Path, format: ModelFormat, way: int | None = None) -> Network:  # noqa: A002 - as above
    """Read a file that was admitted, in the way that held before where that is known.

    Raises:
        CorruptFile: the file is damaged.
        UnsupportedNetwork: it does something that no :class:`Network` can.
    """
    if format == "onnx" and way is not None:
        return reading.load_again(path, way)
    return READERS[format](path)
