"""Admit ``.safetensors`` files: a strict header whose tensors fill the file without gap or overlap."""

import math
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain.errors import CorruptFile, UnsafeFile
from workers.compression.admission import strict_json

MAX_HEADER_BYTES = 16 << 20
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_HOW = "Write the file again with safetensors."
_Size = Annotated[int, Field(ge=0, lt=1 << 40)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    dtype: str
    shape: Annotated[list[_Size], Field(max_length=32)]
    data_offsets: Annotated[list[_Size], Field(min_length=2, max_length=2)]


class Readable(Protocol):
    """What gives the next bytes, fewer only at its end."""

    def read(self, count: int, /) -> bytes: ...


class Tensor(NamedTuple):
    """``begin`` and ``end`` count bytes from the end of the header; ``dtype`` is safetensors' own word."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def admit_safetensors(path: Path) -> None:
    """Raise UnsafeFile or CorruptFile unless the header describes exactly the bytes behind it."""
    with path.open("rb") as stream:
        read_tensors(stream, path.stat().st_size)


def read_tensors(stream: Readable, size: int) -> list[Tensor]:
    """Read the header off a file of ``size`` bytes and give its tensors in the order of their bytes.

    Raises UnsafeFile or CorruptFile unless they fill what is behind the header, without gap or overlap.
    """
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if length > size - 8 and (start[:1] == b"\x80" or start[:2] == b"PK"):  # the least byte of a length may be 0x80
        raise UnsafeFile("The file is a pickle or an archive, and no safetensors file.", hint=_HOW)
    if len(start) < 8 or length > size - 8:
        raise CorruptFile(f"The file claims a header of {length} bytes and holds {size}.", hint=_HOW)
    if length > MAX_HEADER_BYTES:
        raise UnsafeFile(f"The file claims a header of {length} bytes.", hint=_HOW)
    header = strict_json.loads(stream.read(length), "The header")
    if not isinstance(header, dict):
        raise CorruptFile("The header is no object.", hint=_HOW)
    _check_metadata(header.pop("__metadata__", {}))
    tensors = sorted((_read_tensor(name, entry) for name, entry in header.items()), key=lambda it: (it.begin, it.end))
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            message = f"The tensors overlap or leave a gap at byte {min(tensor.begin, end)} of the data."
            raise UnsafeFile(message, hint=_HOW)
        end = tensor.end
    if 8 + length + end != size:
        raise CorruptFile(f"The header describes {end} bytes of data; the file holds {size - 8 - length}.", hint=_HOW)
    return tensors


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnsafeFile("The header's __metadata__ holds something else than texts.", hint=_HOW)


def _read_tensor(name: str, entry: Any) -> Tensor:
    what = f"The tensor {name[:80]!r}"
    if not name.isprintable() or len(name) > 1024:
        raise UnsafeFile(f"{what} has a name that is not admitted.", hint=_HOW)
    try:
        told = _Entry.model_validate(entry)
    except ValidationError as error:
        raise UnsafeFile(f"{what} is described wrongly: {error.errors()[0]['msg']}.", hint=_HOW) from None
    if told.dtype not in _ITEM_BYTES:
        raise UnsafeFile(f"{what} is of the dtype {told.dtype[:40]!r}; read are {', '.join(_ITEM_BYTES)}.", hint=_HOW)
    begin, finish = told.data_offsets
    if finish - begin != math.prod(told.shape) * _ITEM_BYTES[told.dtype]:
        raise CorruptFile(f"{what} has {finish - begin} bytes, which does not fit its shape {told.shape}.", hint=_HOW)
    return Tensor(name, told.dtype, tuple(told.shape), begin, finish)
