"""What a file is, told from its bytes; nothing of it is decoded here."""

import io
import json
import zipfile
from collections.abc import Sequence
from typing import IO

from app.domain.errors import CorruptFile, TruncatedUpload, UnknownFormat, UnsafeFile

_HEADER_LIMIT_BYTES = 2 * 1024**2
_LOCAL_FILE = b"PK\x03\x04"
_END = b"PK\x05\x06"
_END_BYTES = 22
_PICKLE_PROTOCOL = 0x80
_EXPORT = "Export the network with torch.export.export and save it with torch.export.save(program, 'model.pt2')."


class _Bounded(io.BufferedIOBase):
    """A file whose single reads are small, so that a crafted directory cannot fill the memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _HEADER_LIMIT_BYTES:
            raise UnsafeFile(f"The archive's directory has more than {_HEADER_LIMIT_BYTES} bytes.")
        return self._file.read(_HEADER_LIMIT_BYTES if size is None or size < 0 else size)


def tell(file: IO[bytes], size_bytes: int) -> str:
    """Name the format: ``pt2``, ``npz`` or ``safetensors``.

    Raises UnknownFormat, TruncatedUpload, CorruptFile or UnsafeFile.
    """
    head = file.read(16)
    if not head:
        raise TruncatedUpload("The body is empty.")
    if head[:4] in {_LOCAL_FILE, _END}:
        return _tell_archive(file, size_bytes)
    if head[0] == _PICKLE_PROTOCOL:
        raise UnknownFormat("The file is a pickle, which can run code when it is read.", hint=_EXPORT)
    if len(head) > 8 and head[8:9] == b"{":
        return _tell_safetensors(file, size_bytes)
    raise UnknownFormat("The file is neither a .pt2 archive, an .npz archive nor a .safetensors file.")


def _tell_archive(file: IO[bytes], size_bytes: int) -> str:
    try:
        with zipfile.ZipFile(_Bounded(file)) as archive:
            names = archive.namelist()
            first = min((member.header_offset for member in archive.infolist()), default=0)
            end = size_bytes - _END_BYTES - len(archive.comment)
    except zipfile.BadZipFile as error:
        # An archive's directory stands at its end: one that starts like a zip and has none was cut.
        raise TruncatedUpload(f"The archive has no readable directory at its end: {error}.") from error
    except (ValueError, NotImplementedError, UnicodeError, EOFError) as error:
        raise CorruptFile(f"The archive's directory cannot be read: {error}.") from error
    if first != 0 or not _ends_at(file, end, size_bytes):
        # A member may be an archive itself: cut behind it, the file shows that one's directory.
        raise TruncatedUpload("The archive's directory is not at its end, or tells of only a part of the file.")
    return _tell_members(names)


def _ends_at(file: IO[bytes], end: int, size_bytes: int) -> bool:
    """Tell whether the record that ends a directory stands there, its comment reaching to the file's end."""
    file.seek(max(0, end))
    record = file.read(_END_BYTES)
    return record.startswith(_END) and end + _END_BYTES + int.from_bytes(record[-2:], "little") == size_bytes


def _tell_members(names: Sequence[str]) -> str:
    tails = {name.partition("/")[2] for name in names}
    if "models/model.json" in tails:
        if any("/aotinductor/" in name for name in names):
            raise UnknownFormat("The archive holds compiled native code (AOTInductor).", hint=_EXPORT)
        return "pt2"
    if any(tail.startswith("code/") for tail in tails):
        raise UnknownFormat("The file is a TorchScript archive.", hint=_EXPORT)
    if any(tail.endswith(".pkl") for tail in (*tails, *names)):
        raise UnknownFormat("The file is a pickled checkpoint, which can run code when it is read.", hint=_EXPORT)
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise UnknownFormat("The archive is neither a .pt2 nor an .npz file.")


def _tell_safetensors(file: IO[bytes], size_bytes: int) -> str:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > _HEADER_LIMIT_BYTES:
        raise UnknownFormat("The file is neither a .pt2 archive, an .npz archive nor a .safetensors file.")
    header = file.read(length)
    if len(header) < length:
        raise TruncatedUpload("The file ends within its safetensors header.")
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise UnknownFormat("The file starts like a .safetensors file and has no such header.") from error
    if size_bytes < end:
        raise TruncatedUpload(f"The file has {size_bytes} bytes; its header tells of {end}.")
    if size_bytes > end:
        raise CorruptFile(f"The file has {size_bytes - end} bytes more than its header tells of.")
    return "safetensors"
