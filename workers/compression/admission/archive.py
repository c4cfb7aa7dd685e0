"""Zip rules shared by every format that is one: members told by list, and every byte compared with its checksum.

torch, numpy and others read zip archives each in a way of their own. What is admitted here leaves no room for two
readings: the archive starts at the first byte and ends at the last, members follow each other without overlap, and
no name stands twice, whatever its case.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from app.domain.errors import CorruptFile, UnsafeFile

BLOCK_BYTES = 4 << 20
_LOCAL = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_DESCRIPTOR_BYTES = 24
_ZIP64_EXTRA = 1
_FULL_32 = 0xFFFFFFFF
_FULL_16 = 0xFFFF
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, NotImplementedError)


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold. A ratio of 1 admits stored members alone."""

    members: int
    member_bytes: int
    total_bytes: int
    ratio: int


class Archive:
    """A zip archive whose directory has been checked; ``blocks`` checks what is read."""

    def __init__(self, stream: BinaryIO, limits: Limits, *, folders: bool = False) -> None:
        self._stream = stream
        self._limits = limits
        size = stream.seek(0, os.SEEK_END)
        directory, count = _find_directory(stream, size)
        if count > limits.members:
            raise UnsafeFile(f"The archive holds {count} members; at most {limits.members} are read.")
        try:
            self._zip = zipfile.ZipFile(stream)
        except _BROKEN as error:
            raise CorruptFile(f"The archive's directory cannot be read: {error}") from error
        if count != len(self._zip.infolist()):
            raise CorruptFile("The archive's directory has another number of entries than its last bytes say.")
        self.members = {member.filename: member for member in self._zip.infolist() if not _is_folder(member, folders)}
        self._check_names(folders=folders)
        self._check_sizes()
        self._starts = self._lay_out(directory)

    @classmethod
    def open(cls, path: Path, limits: Limits, *, folders: bool = False) -> Self:
        stream = path.open("rb")
        try:
            return cls(stream, limits, folders=folders)
        except BaseException:
            stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._zip.close()
        self._stream.close()

    def blocks(self, name: str) -> Iterator[bytes]:
        """Read a member in blocks. Raises CorruptFile at its end when the checksum differs."""
        member = self.members[name]
        if member.compress_type == zipfile.ZIP_STORED:
            yield from self._stored_blocks(member)
            return
        try:
            with self._zip.open(member) as stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block
        except _BROKEN as error:
            raise CorruptFile(f"The archive's member {name!r} is damaged: {error}") from error

    def size(self, name: str) -> int:
        return self.members[name].file_size

    def read(self, name: str, limit: int) -> bytes:
        """Read a whole member of at most ``limit`` bytes."""
        size = self.size(name)
        if size > limit:
            raise UnsafeFile(f"The archive's member {name!r} holds {size} bytes; at most {limit} are read.")
        return b"".join(self.blocks(name))

    def start(self, name: str) -> int:
        """Give the offset of a member's first byte within the file."""
        return self._starts[name]

    def _stored_blocks(self, member: zipfile.ZipInfo) -> Iterator[bytes]:
        self._stream.seek(self._starts[member.filename])
        left, checksum = member.file_size, 0
        while left:
            block = self._stream.read(min(left, BLOCK_BYTES))
            if not block:
                raise CorruptFile(f"The archive ends within its member {member.filename!r}.")
            left -= len(block)
            checksum = zlib.crc32(block, checksum)
            position = self._stream.tell()
            yield block
            self._stream.seek(position)
        if checksum != member.CRC:
            raise CorruptFile(f"The archive's member {member.filename!r} does not match its checksum.")

    def _check_names(self, *, folders: bool) -> None:
        seen: set[str] = set()
        for member in self._zip.infolist():
            name = member.filename
            if member.orig_filename != name or not name.isprintable() or "\\" in name:
                raise UnsafeFile(f"The archive's member name {member.orig_filename!r} is not admitted.")
            parts = name.removesuffix("/").split("/")
            if name.startswith("/") or ":" in parts[0] or any(part in {"", ".", ".."} for part in parts):
                raise UnsafeFile(f"The archive's member name {name!r} points out of the archive.")
            if name.endswith("/") and not folders:
                raise UnsafeFile(f"The archive holds the folder {name!r}.")
            if name.lower() in seen:  # torch's reader takes names that differ in case alone for the same
                raise UnsafeFile(f"The archive holds {name!r} more than once.")
            seen.add(name.lower())
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise UnsafeFile(f"The archive's member {name!r} is a link or a device.")

    def _check_sizes(self) -> None:
        total = 0
        for name, member in self.members.items():
            if member.flag_bits & _ENCRYPTED:
                raise UnsafeFile(f"The archive's member {name!r} is encrypted.")
            stored = member.compress_type == zipfile.ZIP_STORED
            if not stored and (self._limits.ratio == 1 or member.compress_type != zipfile.ZIP_DEFLATED):
                raise UnsafeFile(f"The archive's member {name!r} is packed by method {member.compress_type}.")
            if stored and member.file_size != member.compress_size:
                raise CorruptFile(f"The archive's member {name!r} has two different sizes.")
            if member.file_size > max(1, member.compress_size) * self._limits.ratio:
                raise UnsafeFile(f"The archive's member {name!r} unpacks to over {self._limits.ratio} times its size.")
            if member.file_size > self._limits.member_bytes:
                raise UnsafeFile(
                    f"The archive's member {name!r} holds {member.file_size} bytes, which is over the limit."
                )
            total += member.file_size
        if total > self._limits.total_bytes:
            raise UnsafeFile(f"The archive's members hold {total} bytes together, which is over the limit.")

    def _lay_out(self, directory: int) -> dict[str, int]:
        """Find where each member's bytes start, and see that members follow each other from the first byte on."""
        starts, end, slack = {}, 0, 0
        for member in sorted(self._zip.infolist(), key=lambda each: each.header_offset):
            name = member.filename
            if not end <= member.header_offset <= end + slack:
                raise UnsafeFile(f"The archive's member {name!r} overlaps another, or bytes lie hidden before it.")
            start = self._data_start(member)
            if _holds_needless_zip64(member):
                raise UnsafeFile(f"The archive's member {name!r} tells its size in two ways.")
            starts[name] = start
            end = start + member.compress_size
            slack = _DESCRIPTOR_BYTES if member.flag_bits & _DESCRIPTOR else 0
        if not end <= directory <= end + slack:
            raise CorruptFile("The archive's members and its directory do not meet.")
        return starts

    def _data_start(self, member: zipfile.ZipInfo) -> int:
        self._stream.seek(member.header_offset)
        try:
            fields = _LOCAL.unpack(self._stream.read(_LOCAL.size))
        except struct.error as error:
            raise CorruptFile(f"The archive's member {member.filename!r} lies beyond its end.") from error
        magic, name_bytes, extra_bytes = fields[0], fields[9], fields[10]
        name = self._stream.read(name_bytes)
        encoding = "utf-8" if fields[2] & 0x800 else "cp437"
        if magic != b"PK\x03\x04" or name.decode(encoding, "replace") != member.orig_filename:
            raise CorruptFile(f"The archive's member {member.filename!r} does not stand where the directory says.")
        if fields[2] & _ENCRYPTED or fields[3] != member.compress_type:
            raise UnsafeFile(f"The archive's member {member.filename!r} is packed in two different ways.")
        return member.header_offset + _LOCAL.size + name_bytes + extra_bytes


def _is_folder(member: zipfile.ZipInfo, folders: bool) -> bool:  # noqa: FBT001 - private, one caller
    return folders and member.filename.endswith("/")


def _find_directory(stream: BinaryIO, size: int) -> tuple[int, int]:
    """Give the offset of the directory and its number of entries; nothing may stand behind or between."""
    tail_bytes = min(size, _END.size + _LOCATOR_64.size + _END_64.size)
    stream.seek(size - tail_bytes)
    tail = stream.read(tail_bytes)
    try:
        magic, _, _, _, count, length, offset, comment = _END.unpack(tail[-_END.size :])
    except struct.error as error:
        raise CorruptFile("The file is too short for a zip archive.") from error
    if magic != b"PK\x05\x06" or comment:
        raise CorruptFile("The file does not end as a zip archive does: it is cut off, or bytes follow its end.")
    end = size - _END.size
    if tail[-_END.size - _LOCATOR_64.size :].startswith(b"PK\x06\x07"):
        count, length, offset = _read_zip64(tail, end, (count, length, offset))
        end -= _LOCATOR_64.size + _END_64.size
    if offset + length != end:
        raise CorruptFile("The archive's directory does not stand where its last bytes say.")
    return offset, count


def _read_zip64(tail: bytes, end: int, small: tuple[int, int, int]) -> tuple[int, int, int]:
    if len(tail) < _END.size + _LOCATOR_64.size + _END_64.size:
        raise CorruptFile("The archive's last bytes are cut off.")
    _, _, position, _ = _LOCATOR_64.unpack(tail[_END_64.size : -_END.size])
    fields = _END_64.unpack(tail[: _END_64.size])
    if fields[0] != b"PK\x06\x06" or position != end - _LOCATOR_64.size - _END_64.size:
        raise CorruptFile("The archive's long directory record does not stand where it is said to.")
    wide = (fields[7], fields[8], fields[9])
    if any(a not in {b, full} for a, b, full in zip(small, wide, (_FULL_16, _FULL_32, _FULL_32), strict=True)):
        raise UnsafeFile("The archive has two directories that differ.")
    return wide


def _holds_needless_zip64(member: zipfile.ZipInfo) -> bool:
    """Tell whether a long size stands beside a short one that would do: readers differ on which they take."""
    extra, found = member.extra, 0
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        found += kind == _ZIP64_EXTRA
        extra = extra[4 + length :]
    needed = max(member.file_size, member.compress_size, member.header_offset) >= _FULL_32
    return found > int(needed)
