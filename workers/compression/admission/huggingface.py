"""Admit folders of Hugging Face in a zip or a tar: ``config.json`` and the safetensors beside it.

What other files hold is never looked at, but a pickle among them is refused: somebody would load it one day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from app.domain.errors import CorruptFile, NonFiniteWeights, UnsafeFile, WinnowError
from workers.compression.admission import strict_json
from workers.compression.admission.archive import BLOCK_BYTES, Archive, Limits
from workers.compression.admission.config import check_config
from workers.compression.admission.finite import find_nonfinite
from workers.compression.admission.safetensors import Tensor, read_tensors
from workers.compression.admission.tar import Tar

CONFIG, WEIGHTS, INDEX, PREPROCESSOR = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
)
_LIMITS = Limits(members=10_000, member_bytes=1 << 36, total_bytes=1 << 36, ratio=1_000)
_MAX_JSON_BYTES = 4 << 20
_MAX_INDEX_BYTES = 16 << 20
_MAX_TENSORS = 100_000
_ADAPTER = "adapter_config.json"
_PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_ZIP = b"PK\x03\x04"
_HOW = (
    "Save it with model.save_pretrained(folder), which writes config.json and model.safetensors, and pack the folder."
)


Members = Archive | Tar


@dataclass(frozen=True)
class Folder:
    """What of an archive is read. ``files`` are the weights' members by their names within the folder."""

    config: dict[str, Any]
    preprocessor: dict[str, Any]
    files: dict[str, str]
    index: dict[str, str] | None
    """Which of the files each tensor stands in, where they are several."""
    tensors: dict[str, Tensor]


def admit_huggingface(path: Path) -> None:
    """Raise UnsafeFile or CorruptFile unless configuration and weights can be read without running anything of them.

    Raises NonFiniteWeights where a weight is NaN or infinite.
    """
    with open_archive(path) as archive:
        for name in archive.members:
            if PurePosixPath(name).suffix.lower() in _PICKLES:
                raise UnsafeFile(
                    f"The archive holds {name!r}, a pickle, which can run code when it is read.",
                    hint="Leave it out: weights are read from model.safetensors, and nothing else is.",
                )
        folder = read_folder(archive)
        for name in folder.files.values():
            _check_values(archive, name)
        for name in archive.members.keys() - set(folder.files.values()):
            for _ in archive.blocks(name):  # to its end, for the checksum
                pass


def open_archive(path: Path) -> Members:
    """Open a zip or a tar, told by its first bytes."""
    with path.open("rb") as stream:
        start = stream.read(len(_ZIP))
    return Archive.open(path, _LIMITS, folders=True) if start == _ZIP else Tar(path, _LIMITS)


def read_folder(archive: Members) -> Folder:
    """Find the folder and read its configuration and what its weights are called.

    Raises UnsafeFile or CorruptFile.
    """
    root = _find_root(archive)
    files, index = _find_weights(archive, root)
    tensors: dict[str, Tensor] = {}
    for file, member in files.items():
        found = {tensor.name: tensor for tensor in _told_of(archive, member)}
        if index is not None and {name for name, place in index.items() if place == file} != found.keys():
            raise CorruptFile(f"{INDEX} tells of other tensors than {member!r} holds.", hint=_HOW)
        tensors |= found
    if not 0 < len(tensors) <= _MAX_TENSORS:
        raise UnsafeFile(f"The weights are {len(tensors)} tensors; read are 1 to {_MAX_TENSORS}.", hint=_HOW)
    config = _read_object(archive, root + CONFIG, _MAX_JSON_BYTES)
    check_config(config, tensors)
    preprocessor = (
        _read_object(archive, root + PREPROCESSOR, _MAX_JSON_BYTES) if root + PREPROCESSOR in archive.members else {}
    )
    return Folder(config, preprocessor, files, index, tensors)


def _find_root(archive: Members) -> str:
    """Give the folder of the configuration, ending in a slash unless it is the top.

    Libraries that build on others keep more of both deeper: the outermost is meant.
    """
    weighted = {name.rpartition("/")[0] for name in archive.members if name.endswith(".safetensors")}
    configured = {name.rpartition("/")[0] for name in archive.members if PurePosixPath(name).name == CONFIG}
    found = sorted(weighted & configured, key=lambda folder: len(PurePosixPath(folder).parts))
    if not found:
        raise UnsafeFile(f"No folder of the archive holds {CONFIG} and safetensors beside it.", hint=_HOW)
    depths = [len(PurePosixPath(folder).parts) for folder in found[:2]]
    if len(set(depths)) < len(depths):
        raise UnsafeFile(f"The archive holds several networks: {found[0]!r} and {found[1]!r}.", hint="Pack one folder.")
    return f"{found[0]}/" if found[0] else ""


def _find_weights(archive: Members, root: str) -> tuple[dict[str, str], dict[str, str] | None]:
    """Give the members that hold the weights, and the index where one lists them."""
    if root + _ADAPTER in archive.members:
        raise UnsafeFile(
            "The folder holds an adapter, not a network.",
            hint="Merge it, with model.merge_and_unload(), and save the whole network.",
        )
    if root + WEIGHTS in archive.members:
        return {WEIGHTS: root + WEIGHTS}, None
    if root + INDEX not in archive.members:
        raise UnsafeFile(f"The folder of {CONFIG} holds neither {WEIGHTS} nor {INDEX}.", hint=_HOW)
    index = _read_object(archive, root + INDEX, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise UnsafeFile(f"{INDEX} has no weight_map of names.", hint=_HOW)
    files = {file: root + file for file in sorted(set(index.values()))}
    for file, member in files.items():
        if "/" in file or not file.endswith(".safetensors") or member not in archive.members:
            raise UnsafeFile(f"{INDEX} names {file[:80]!r}, which is no safetensors file beside it.", hint=_HOW)
    return files, index


def _read_object(archive: Members, name: str, limit: int) -> dict[str, Any]:
    document = strict_json.loads(archive.read(name, limit), name)
    if not isinstance(document, dict):
        raise CorruptFile(f"{name} is no object.", hint=_HOW)
    return document


def _told_of(archive: Members, member: str) -> list[Tensor]:
    try:
        return read_tensors(_Stream(archive.blocks(member)), archive.size(member))
    except WinnowError as error:
        raise type(error)(f"{member}: {error.detail}", hint=error.hint) from error


def _check_values(archive: Members, member: str) -> None:
    stream = _Stream(archive.blocks(member))
    for tensor in read_tensors(stream, archive.size(member)):
        left = tensor.end - tensor.begin
        while left:
            block = stream.read(min(left, BLOCK_BYTES))
            left -= len(block)
            finding = find_nonfinite(block, _FLOATS.get(tensor.dtype, tensor.dtype))
            if finding != "finite":
                raise NonFiniteWeights(f"The weight {tensor.name!r} holds {finding} values.")
    stream.read(1)  # past the end, where the checksum is compared


class _Stream:
    """Gives the bytes of blocks in pieces of any length."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = b""

    def read(self, count: int, /) -> bytes:
        parts, missing = [self._held], count - len(self._held)
        while missing > 0 and (block := next(self._blocks, b"")):
            parts.append(block)
            missing -= len(block)
        held = b"".join(parts)
        self._held = held[count:]
        return held[:count]
