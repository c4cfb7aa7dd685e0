"""Admit ``.npz`` archives: plain numeric arrays whose headers are read as literals and fit their bytes."""

import ast
import math
import re
from pathlib import Path

from app.domain.errors import CorruptFile, UnsafeFile
from workers.compression.admission.archive import Archive, Limits

_LIMITS = Limits(members=1_000, member_bytes=1 << 36, total_bytes=1 << 36, ratio=1_000)
"""Images of zeros do pack 1,000 to 1, which is the most that deflate can."""
_DTYPE = re.compile(r"[<|=]?(?:[iu][1248]|f[248]|[b?]1?)")
_SWAPPED = re.compile(r">[iuf][1248]")
_MAX_HEADER_BYTES = 10_000
_HOW = "Write plain numeric arrays with numpy.savez."


def admit_npz(path: Path) -> None:
    """Raise UnsafeFile or CorruptFile unless every member is one numeric array of the size it claims."""
    with Archive.open(path, _LIMITS) as archive:
        if not archive.members:
            raise CorruptFile("The archive holds no array.", hint=_HOW)
        for name in archive.members:
            if not name.endswith(".npy"):
                raise UnsafeFile(f"The archive's member {name!r} is no array.", hint=_HOW)
            _check_array(archive, name)


def _check_array(archive: Archive, name: str) -> None:
    start = b""
    for number, block in enumerate(archive.blocks(name)):  # to its end, for the checksum
        if number == 0:
            start = block[: _MAX_HEADER_BYTES + 12]
            check_npy_header(start, archive.members[name].file_size, f"The array {name!r}")
    if not start:
        raise CorruptFile(f"The array {name!r} is empty.", hint=_HOW)


def check_npy_header(start: bytes, size: int, what: str) -> None:
    """Read the header of a ``.npy`` file of ``size`` bytes from its first ones."""
    if start[:6] != b"\x93NUMPY":
        if start[:1] in {b"\x80", b"("}:
            raise UnsafeFile(f"{what} is a pickle, which runs code when it is loaded.", hint=_HOW)
        raise CorruptFile(f"{what} does not start as an array does.", hint=_HOW)
    width = {b"\x01\x00": 2, b"\x02\x00": 4}.get(start[6:8])
    if width is None:
        raise UnsafeFile(f"{what} is in a version of the npy format that is not read.", hint=_HOW)
    length = int.from_bytes(start[8 : 8 + width], "little")
    begin = 8 + width + length
    if length > _MAX_HEADER_BYTES or begin > size:
        raise UnsafeFile(f"{what} claims a header of {length} bytes.", hint=_HOW)
    shape, item = _read_header(start[8 + width : begin], what)
    if begin + math.prod(shape) * item != size:
        raise CorruptFile(f"{what} holds {size - begin} bytes, which does not fit its shape {list(shape)}.")


def _read_header(text: bytes, what: str) -> tuple[tuple[int, ...], int]:
    try:
        header = ast.literal_eval(text.decode("latin1").strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        raise CorruptFile(f"{what} has a header that cannot be read.", hint=_HOW) from error
    match header:
        case {"descr": str(dtype), "fortran_order": bool(), "shape": tuple(shape), **rest} if not rest:
            pass
        case _:
            raise UnsafeFile(f"{what} is no plain numeric array.", hint=_HOW)
    if _SWAPPED.fullmatch(dtype):
        raise UnsafeFile(f"{what} is big-endian ({dtype}).", hint="Write it with .astype(dtype.newbyteorder('<')).")
    if not _DTYPE.fullmatch(dtype):
        kind = "Python objects (a pickle)" if dtype.endswith("O") else f"the dtype {dtype[:40]!r}"
        raise UnsafeFile(f"{what} holds {kind}.", hint=_HOW)
    if len(shape) > 32 or not all(type(each) is int and 0 <= each < 1 << 40 for each in shape):
        raise UnsafeFile(f"{what} has the shape {str(shape)[:80]}.", hint=_HOW)
    return shape, int(dtype[-1]) if dtype[-1].isdigit() else 1
