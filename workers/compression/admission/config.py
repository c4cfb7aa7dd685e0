"""Admit the ``config.json`` of a Hugging Face folder, held against the weights that stand beside it.

A configuration is a page of numbers from which a library builds a network: what it asks for must not go far beyond
what the files hold, and it must ask for nothing but a network that the library itself knows.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.domain.errors import UnsafeFile, UnsupportedNetwork
from workers.compression.admission.safetensors import Tensor

DTYPES = frozenset({"float32", "float16", "bfloat16"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,99}")
_REPEATED = re.compile(r"(?:^|_)(?:layers?|depths?|blocks?|stages?)$")
"""Keys of numbers each of which is a part with weights of its own."""
_COUNTED = re.compile(r"(?:^|_)(?:labels?|classes|heads?|experts?|channels?|groups?|size|dim|width)$")
"""Keys of numbers that are lengths of a weight, or share one."""
_FEW, _SLACK = 256, 1 << 16
"""What costs nothing to build, whatever the files hold."""
_MAX_NUMBER = 1 << 32
_MAX_DEPTH = 16
_EXPORT = "Export the network yourself, with torch.export.export, and upload the .pt2."
_REFUSED = {
    "auto_map": "code of its own (auto_map), which is never run",
    "trust_remote_code": "code of its own (trust_remote_code), which is never run",
    "custom_pipelines": "code of its own (custom_pipelines), which is never run",
    "quantization_config": "weights that are quantized already (quantization_config)",
    "compression_config": "weights that are compressed already (compression_config)",
}


def check_config(config: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise UnsupportedNetwork where it names no class and kind, UnsafeFile where it asks for more than there is."""
    kind, classes = config.get("model_type"), config.get("architectures")
    if not isinstance(kind, str) or not _NAME.fullmatch(kind):
        raise UnsupportedNetwork("config.json names no model_type.", hint="Save it with model.save_pretrained(folder).")
    if not isinstance(classes, list) or len(classes) != 1 or not _is_name(classes[0]):
        raise UnsupportedNetwork(
            "config.json must name one class under architectures.", hint="Save it with model.save_pretrained(folder)."
        )
    elements = sum(math.prod(tensor.shape) for tensor in tensors.values())
    for path, value in _walk(config, "", 0):
        key = path.rpartition(".")[2]
        if key in _REFUSED and value not in (None, False, {}, []):
            raise UnsupportedNetwork(f"config.json asks for {_REFUSED[key]}.", hint=_EXPORT)
        if key in {"dtype", "torch_dtype"} and value is not None and str(value) not in DTYPES:
            raise UnsupportedNetwork(
                f"config.json says {path} {str(value)[:40]!r}; read are {', '.join(sorted(DTYPES))}.", hint=_EXPORT
            )
        if isinstance(value, int):
            _check_number(path, value, tensors=len(tensors), elements=elements)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(_NAME.fullmatch(value))


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Give every value with its dotted keys; items of a list have the list's own."""
    if depth > _MAX_DEPTH:
        raise UnsafeFile("config.json nests too deeply.")
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _walk(part, f"{path}.{key}" if path else key, depth + 1)
            yield (f"{path}.{key}" if path else key), part
    elif isinstance(value, list):
        for part in value:
            yield from _walk(part, path, depth + 1)
            yield path, part


def _check_number(path: str, value: int, *, tensors: int, elements: int) -> None:
    key = path.rpartition(".")[2]
    most = _MAX_NUMBER
    if _REPEATED.search(key):
        most = max(tensors, _FEW)
    elif _COUNTED.search(key):
        most = elements + _SLACK
    if abs(value) > most:
        raise UnsafeFile(
            f"config.json says {path[:80]} {value}; beside weights of {tensors} tensors with {elements} numbers, {most}"
            " is the most that is admitted."
        )
