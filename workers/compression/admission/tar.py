"""Tar rules shared by every format that is one: plain files and folders alone, told by list, none compressed.

A tar has no checksum of what its members hold; what holds numbers is checked by its own format's rules.
"""

import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from app.domain.errors import CorruptFile, UnsafeFile
from workers.compression.admission.archive import BLOCK_BYTES, Limits

BROKEN_TAR = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, zlib.error)
_PLAIN = "Write it with tar --dereference --create, which stores what links point to."


class Tar:
    """An uncompressed tar whose members have been checked, with the ways in of :class:`.archive.Archive`."""

    def __init__(self, path: Path, limits: Limits) -> None:
        try:
            # "r:" reads no compressed tar: there the size of what is unpacked is known to nobody.
            self._tar = tarfile.open(path, "r:")  # noqa: SIM115 - closed by this object's own exit
        except BROKEN_TAR as error:
            raise _unreadable(error) from error
        try:
            self.members = self._read(limits)
        except BaseException:
            self._tar.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._tar.close()

    def size(self, name: str) -> int:
        return self.members[name].size

    def blocks(self, name: str) -> Iterator[bytes]:
        """Read a member in blocks. Raises CorruptFile where the archive ends within it."""
        left = self.size(name)
        content = self._tar.extractfile(self.members[name])
        assert content is not None  # a plain file
        while left:
            try:
                block = content.read(min(left, BLOCK_BYTES))
            except BROKEN_TAR as error:
                raise _unreadable(error) from error
            if not block:
                raise CorruptFile(f"The archive ends within its member {name!r}.")
            left -= len(block)
            yield block

    def read(self, name: str, limit: int) -> bytes:
        """Read a whole member of at most ``limit`` bytes."""
        if self.size(name) > limit:
            raise UnsafeFile(f"The archive's member {name!r} holds {self.size(name)} bytes; at most {limit} are read.")
        return b"".join(self.blocks(name))

    def _read(self, limits: Limits) -> dict[str, tarfile.TarInfo]:
        found: dict[str, tarfile.TarInfo] = {}
        seen: set[str] = set()
        try:
            for member in plain_members(self._tar, limits):
                name = member.name.removeprefix("./").rstrip("/")
                if member.isdir() and name in {"", "."}:
                    continue
                check_parts(name)
                if name.lower() in seen:
                    raise UnsafeFile(f"The archive holds {name!r} more than once.")
                seen.add(name.lower())
                if not member.isdir():
                    found[name] = member
        except BROKEN_TAR as error:
            raise _unreadable(error) from error
        return found


def plain_members(archive: tarfile.TarFile, limits: Limits) -> Iterator[tarfile.TarInfo]:
    """Give the members one by one. Raises UnsafeFile at the first that is no plain file or folder, or too large."""
    total = 0
    for number, member in enumerate(archive):
        total += member.size
        if number >= limits.members or total > limits.total_bytes:
            raise UnsafeFile("The archive holds more than can be read.")
        if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE}:
            raise UnsafeFile(f"The archive's member {member.name!r} is a link or a device.", hint=_PLAIN)
        if member.sparse is not None:
            raise UnsafeFile(f"The archive's member {member.name!r} has holes.", hint=_PLAIN)
        if member.mode & (stat.S_ISUID | stat.S_ISGID):
            raise UnsafeFile(f"The archive's member {member.name!r} would run with another user's rights.")
        if member.size > limits.member_bytes:
            raise UnsafeFile(
                f"The archive's member {member.name!r} holds {member.size} bytes, which is over the limit."
            )
        yield member


def check_parts(name: str, hint: str | None = None) -> list[str]:
    """Split a member's name. Raises UnsafeFile where it points out of the archive."""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or name.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        raise UnsafeFile(f"The archive's member name {name!r} points out of the archive.", hint=hint)
    return parts


def _unreadable(error: Exception) -> CorruptFile:
    return CorruptFile(f"The tar archive cannot be read: {error}", hint="Compressed tars are not read.")
