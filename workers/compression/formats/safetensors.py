"""``.safetensors`` files, each tensor as a memory map."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from app.domain.errors import CorruptFile, InvalidDataset

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def open_safetensors(path: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    """Give a reader for each tensor; nothing but the header is read yet."""
    try:
        with safe_open(path, "numpy"):  # checks that offsets, shapes and the file's size fit together
            pass
    except SafetensorError as error:
        raise CorruptFile(f"the file cannot be read: {error}") from error
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return {name: _reader(path, name, entry, 8 + length) for name, entry in header.items()}


def _reader(path: Path, name: str, entry: dict[str, Any], base: int) -> Callable[[], NDArray[Any]]:
    if entry["dtype"] not in _DTYPES:
        raise InvalidDataset(f"{name!r} is of dtype {entry['dtype']}; read are {', '.join(_DTYPES)}")
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if begin == end:
        return lambda: np.empty(shape, dtype)
    return lambda: np.memmap(path, dtype, "r", base + begin, shape)
