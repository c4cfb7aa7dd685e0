"""``.npz`` archives: stored members as memory maps, compressed ones read whole when first asked for."""

import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from app.domain.errors import CorruptFile, InvalidDataset, UnknownFormat, UnsafeFile

_LOCAL_HEADER_BYTES = 30
_MAX_NPY_HEADER_BYTES = 10_000
_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}

Reader = Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class _Header:
    """What an array's header tells; ``start`` is where its values begin within the member."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[Any]
    start: int

    @property
    def value_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def open_npz(path: Path) -> dict[str, Reader]:
    """Give a reader for each array; nothing but headers is read yet."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise UnsafeFile(f"the archive holds {twice[0]!r} more than once")
            return {member.filename.removesuffix(".npy"): _reader(path, archive, member) for member in members}
    except zipfile.BadZipFile as error:
        raise CorruptFile(f"the archive cannot be read: {error}") from error


def check_npz(path: Path) -> None:
    """Read every byte once and compare its checksum. Raises CorruptFile with the member's name."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            try:
                with archive.open(member) as stream:
                    while stream.read(1 << 20):
                        pass
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise CorruptFile(f"{member.filename!r} is damaged: {error}") from error


def _reader(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Reader:
    name = member.filename
    if not name.endswith(".npy"):
        raise UnknownFormat(
            f"{name!r} is no array: an .npz holds .npy members alone", hint="Write it with numpy.savez."
        )
    if member.flag_bits & 1:
        raise UnsafeFile(f"{name!r} is encrypted")
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UnsafeFile(f"{name!r} is packed with method {member.compress_type}; stored and deflated are read")
    header = _read_header(archive, member)
    if header.dtype.hasobject:
        raise UnsafeFile(f"{name!r} holds Python objects (a pickle)", hint="Save plain numeric arrays.")
    if member.file_size != header.start + header.value_bytes:
        raise CorruptFile(f"{name!r} holds {member.file_size} bytes, which does not fit its shape {list(header.shape)}")
    if member.compress_type == zipfile.ZIP_STORED and header.value_bytes:
        offset = _data_offset(path, member) + header.start
        return lambda: np.memmap(path, header.dtype, "r", offset, header.shape, header.order)
    return cache(lambda: _inflate(path, name, header))


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Header:
    try:
        with archive.open(member) as stream:
            version = npy.read_magic(stream)
            if version not in _HEADERS:
                raise InvalidDataset(f"{member.filename!r} is in version {version} of the npy format; 1 and 2 are read")
            shape, fortran, dtype = _HEADERS[version](stream, max_header_size=_MAX_NPY_HEADER_BYTES)
            return _Header(shape, "F" if fortran else "C", dtype, stream.tell())
    except (ValueError, zlib.error, EOFError, zipfile.BadZipFile) as error:
        raise CorruptFile(f"the header of {member.filename!r} cannot be read: {error}") from error


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Find where the member's bytes begin; the local header's lengths may differ from the directory's."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER_BYTES)
    name, extra = struct.unpack("<HH", header[26:30])
    return member.header_offset + _LOCAL_HEADER_BYTES + name + extra


def _inflate(path: Path, name: str, header: _Header) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
        stream.read(header.start)
        return np.frombuffer(stream.read(), header.dtype).reshape(header.shape, order=header.order)
