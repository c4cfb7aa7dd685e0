"""What a file is, told from its bytes; nothing of it is decoded here."""

import io
import json
import zipfile
from collections.abc import Sequence
from typing import IO

from app.domain.errors import CorruptFile, TruncatedUpload, UnknownFormat, UnsafeFile
from app.services.checkpoints import is_checkpoint, tar_names
from app.services.onnx_files import check_onnx, starts_like_onnx

_HEADER_LIMIT_BYTES = 2 * 1024**2
_LOCAL_FILE = b"PK\x03\x04"
_END = b"PK\x05\x06"
_END_BYTES = 22
_LOCATOR_64, _LOCATOR_64_BYTES = b"PK\x06\x07", 20
_END_64, _END_64_BYTES = b"PK\x06\x06", 56
_CENTRAL = b"PK\x01\x02"
_CENTRAL_BYTES = 46
_NAMES_LOOKED_AT = 100
_PARQUET, _ENCRYPTED_PARQUET = b"PAR1", b"PARE"
_PARQUET_END_BYTES = 8
_TAR_MAGIC, _TAR_MAGIC_AT, _TAR_BLOCK_BYTES = b"ustar", 257, 512
_GZIP = b"\x1f\x8b"
_IMAGES = (".png", ".jpg", ".jpeg")
_NEITHER = (
    "The file is neither a network (.pt2, .onnx, or an archive of config.json and *.safetensors),"
    " tensors (.npz, .safetensors), images (.zip, .tar) nor a .parquet file."
)
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
    """Name the format: ``pt2``, ``onnx``, ``huggingface``; ``npz``, ``safetensors``, ``zip`` or ``tar`` of images,
    or ``parquet``.

    Raises UnknownFormat, TruncatedUpload, CorruptFile or UnsafeFile.
    """
    head = file.read(_TAR_MAGIC_AT + len(_TAR_MAGIC))
    if not head:
        raise TruncatedUpload("The body is empty.")
    if head[:4] in {_LOCAL_FILE, _END}:
        return _tell_archive(file, size_bytes)
    # Before pickles: the least byte of a header's length may be theirs.
    if len(head) > 8 and head[8:9] == b"{" and not any(head[4:8]):
        return _tell_safetensors(file, size_bytes)
    if head[0] == _PICKLE_PROTOCOL:
        raise UnknownFormat("The file is a pickle, which can run code when it is read.", hint=_EXPORT)
    if head.startswith(_PARQUET):
        return _tell_parquet(file, size_bytes)
    if head[_TAR_MAGIC_AT:] == _TAR_MAGIC:
        return _tell_tar(file, size_bytes)
    if head.startswith(_GZIP):
        raise UnknownFormat("The file is compressed as a whole.", hint="Send a .zip, or the .tar as it is.")
    if starts_like_onnx(head):
        check_onnx(file, size_bytes)
        return "onnx"
    raise UnknownFormat(_NEITHER)


def _tell_archive(file: IO[bytes], size_bytes: int) -> str:
    if _tells_many_images(file, size_bytes):
        return "zip"
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


def _tells_many_images(file: IO[bytes], size_bytes: int) -> bool:
    """Tell whether the directory is too long to be read here, ends the file, and begins with names of images.

    A folder of images may have a million members; what else is an archive has few.
    """
    file.seek(max(0, size_bytes - _END_BYTES))
    end = file.read(_END_BYTES)
    if not end.startswith(_END):
        return False
    length, offset = int.from_bytes(end[12:16], "little"), int.from_bytes(end[16:20], "little")
    if 0xFFFFFFFF in {length, offset}:
        length, offset = _long_directory(file, size_bytes)
    if length <= _HEADER_LIMIT_BYTES or offset + length > size_bytes - _END_BYTES:
        return False
    file.seek(offset)
    for _ in range(_NAMES_LOOKED_AT):
        entry = file.read(_CENTRAL_BYTES)
        if not entry.startswith(_CENTRAL):
            return False
        sizes = [int.from_bytes(entry[at : at + 2], "little") for at in (28, 30, 32)]
        name = file.read(sum(sizes))[: sizes[0]].decode("utf-8", "replace")
        if not name.endswith("/") and not name.lower().endswith(_IMAGES):
            return False
    return True


def _long_directory(file: IO[bytes], size_bytes: int) -> tuple[int, int]:
    """Give length and place of the directory of an archive beyond 4 GiB; zeros where its record is not there."""
    file.seek(max(0, size_bytes - _END_BYTES - _LOCATOR_64_BYTES))
    locator = file.read(_LOCATOR_64_BYTES)
    at = int.from_bytes(locator[8:16], "little")
    if not locator.startswith(_LOCATOR_64) or at > size_bytes:
        return 0, 0
    file.seek(at)
    record = file.read(_END_64_BYTES)
    if not record.startswith(_END_64):
        return 0, 0
    return int.from_bytes(record[40:48], "little"), int.from_bytes(record[48:56], "little")


def _tell_tar(file: IO[bytes], size_bytes: int) -> str:
    file.seek(max(0, size_bytes - 2 * _TAR_BLOCK_BYTES))
    if size_bytes % _TAR_BLOCK_BYTES or any(file.read(2 * _TAR_BLOCK_BYTES)):
        raise TruncatedUpload("The tar archive does not end as one does: it was cut.")
    return "huggingface" if is_checkpoint(tar_names(file, size_bytes)) else "tar"


def _tell_parquet(file: IO[bytes], size_bytes: int) -> str:
    file.seek(max(0, size_bytes - _PARQUET_END_BYTES))
    end = file.read(_PARQUET_END_BYTES)
    if end.endswith(_ENCRYPTED_PARQUET):
        raise UnknownFormat("The .parquet file is encrypted.", hint="Write it in the clear.")
    if not end.endswith(_PARQUET) or int.from_bytes(end[:4], "little") > size_bytes - _PARQUET_END_BYTES - len(
        _PARQUET
    ):
        raise TruncatedUpload("The .parquet file has no footer at its end: it was cut.")
    return "parquet"


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
    if is_checkpoint(names):
        return "huggingface"
    if any(tail.startswith("code/") for tail in tails):
        raise UnknownFormat("The file is a TorchScript archive.", hint=_EXPORT)
    if any(tail.endswith(".pkl") for tail in (*tails, *names)):
        raise UnknownFormat("The file is a pickled checkpoint, which can run code when it is read.", hint=_EXPORT)
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if any(name.lower().endswith(_IMAGES) for name in names):
        return "zip"
    raise UnknownFormat(
        "The archive is neither a .pt2, config.json with *.safetensors, an .npz nor a folder of PNG or JPEG images."
    )


def _tell_safetensors(file: IO[bytes], size_bytes: int) -> str:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > _HEADER_LIMIT_BYTES:
        raise UnknownFormat(_NEITHER)
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
