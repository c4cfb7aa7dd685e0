"""Admit archives of images: ``<split>/<class>/<image>`` in a zip or an uncompressed tar, no image beyond its limit."""

import struct
import tarfile
from pathlib import Path

from app.domain.errors import CorruptFile, UnsafeFile
from workers.compression.admission.archive import Archive, Limits
from workers.compression.admission.tar import BROKEN_TAR, check_parts, plain_members

MAX_IMAGE_BYTES = 64 << 20
MAX_PIXELS = 64 << 20
LIMITS = Limits(members=2_000_000, member_bytes=MAX_IMAGE_BYTES, total_bytes=1 << 38, ratio=1_000)
_DEPTH = 3
_HOW = "Lay the archive out as <split>/<class>/<image> with PNG or JPEG files."
_JPEG_SIZES = frozenset({*range(0xC0, 0xD0)}) - {0xC4, 0xC8, 0xCC}


def admit_zip(path: Path) -> None:
    """Raise UnsafeFile or CorruptFile unless the zip holds images alone, each of a size that can be decoded."""
    with Archive.open(path, LIMITS, folders=True) as archive:
        for name in archive.members:
            _check_name(name)
            _check_image(archive.read(name, MAX_IMAGE_BYTES), name)


def admit_tar(path: Path) -> None:
    """Raise UnsafeFile or CorruptFile unless the tar holds images alone, each of a size that can be decoded."""
    seen: set[str] = set()
    try:
        # "r:" reads no compressed tar: there the size of what is unpacked is known to nobody.
        with tarfile.open(path, "r:") as archive:
            for member in plain_members(archive, LIMITS):
                name = member.name.rstrip("/")
                if name in seen:
                    raise UnsafeFile(f"The archive holds {name!r} more than once.")
                seen.add(name)
                if member.isdir():
                    check_parts(name, _HOW)
                    continue
                _check_name(name)
                content = archive.extractfile(member)
                data = content.read(MAX_IMAGE_BYTES) if content else b""
                if len(data) != member.size:
                    raise CorruptFile(f"The archive ends within {name!r}.")
                _check_image(data, name)
    except BROKEN_TAR as error:
        raise CorruptFile(f"The tar archive cannot be read: {error}", hint="Compressed tars are not read.") from error
    if not seen:
        raise CorruptFile("The tar archive is empty.", hint=_HOW)


def _check_name(name: str) -> None:
    if len(check_parts(name, _HOW)) != _DEPTH:
        raise UnsafeFile(f"The archive's member {name!r} does not stand in a split and a class.", hint=_HOW)


def _check_image(data: bytes, name: str) -> None:
    """Read width and height from the header alone."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack(">4x4xII", data[8:24]) if data[12:16] == b"IHDR" else (0, 0)
        elif data.startswith(b"\xff\xd8\xff"):
            width, height = _read_jpeg_size(data)
        else:
            raise UnsafeFile(f"{name!r} is neither PNG nor JPEG.", hint=_HOW)
    except (struct.error, IndexError) as error:
        raise CorruptFile(f"The header of the image {name!r} cannot be read.") from error
    if not width or not height:
        raise CorruptFile(f"The image {name!r} tells no size.")
    if width * height > MAX_PIXELS:
        raise UnsafeFile(f"The image {name!r} claims {width} × {height} pixels; at most {MAX_PIXELS} are read.")


def _read_jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while data[at] == 0xFF:
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + max(length, 2)
    return 0, 0
