"""Hugging Face folders in an archive: ``config.json`` beside ``*.safetensors``, at the top or in one folder."""

from collections.abc import Iterable, Iterator
from typing import IO

from app.domain.errors import UnknownFormat

_CONFIG, _WEIGHTS = "config.json", ".safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SAVE = "Save it with model.save_pretrained(folder, safe_serialization=True), and send that folder."
_TAR_BLOCK_BYTES = 512
_MEMBERS_LOOKED_AT = 100


def is_checkpoint(names: Iterable[str]) -> bool:
    """Tell whether members of these names are a network of Hugging Face's libraries.

    Raises:
        UnknownFormat: the weights are pickled.
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, leaf = name.removeprefix("./").rpartition("/")
        folders.setdefault(folder, []).append(leaf)
    for folder, leaves in folders.items():
        if "/" in folder or _CONFIG not in leaves:
            continue
        if any(leaf.endswith(_WEIGHTS) for leaf in leaves):
            return True
        pickled = next((leaf for leaf in leaves if leaf.endswith(_PICKLED)), None)
        if pickled is not None:
            raise UnknownFormat(f"{pickled} is a pickle, which can run code when it is read.", hint=_SAVE)
    return False


def tar_names(file: IO[bytes], size_bytes: int) -> list[str]:
    """Give the names of the first members of a tar archive, as far as its headers can be read."""
    return list(_members(file, size_bytes))


def _members(file: IO[bytes], size_bytes: int) -> Iterator[str]:
    at = 0
    for _ in range(_MEMBERS_LOOKED_AT):
        if at + _TAR_BLOCK_BYTES > size_bytes:
            return
        file.seek(at)
        header = file.read(_TAR_BLOCK_BYTES)
        size = _size(header[124:136])
        if not header[0] or size is None:
            return
        if header[156:157] in b"0\0":
            name, prefix = (part.split(b"\0")[0].decode("utf-8", "replace") for part in (header[:100], header[345:500]))
            yield f"{prefix}/{name}" if prefix else name
        at += _TAR_BLOCK_BYTES * (1 + -(-size // _TAR_BLOCK_BYTES))


def _size(digits: bytes) -> int | None:
    """Read a size in octal or, beyond 8 GiB, in binary; null where it is neither."""
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:])
    octal = digits.strip(b" \0") or b"0"
    return int(octal, 8) if octal.isdigit() and not {*b"89"} & {*octal} else None
