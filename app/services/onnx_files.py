"""ONNX files, told by their outermost fields alone: a protobuf message names no format of its own."""

from typing import IO

from app.domain.errors import CorruptFile, TruncatedUpload

_VARINT, _BYTES = 0, 2
_IR_VERSION, _GRAPH, _OPSET = 1, 7, 8
_FIELDS = {1: _VARINT, 2: _BYTES, 3: _BYTES, 4: _BYTES, 5: _VARINT, 6: _BYTES, 7: _BYTES, 8: _BYTES, 14: _BYTES,
           20: _BYTES, 25: _BYTES}  # fmt: skip
"""The fields of a ModelProto with their kinds, by number."""
_IR_VERSIONS = range(1, 64)
_MAX_FIELDS = 1000
_MAX_VARINT_BYTES = 10


def starts_like_onnx(head: bytes) -> bool:
    """Tell whether a file starts with an IR version and another field of a model."""
    return len(head) > 2 and head[0] == _IR_VERSION << 3 and head[1] in _IR_VERSIONS and _kind(head[2]) is not None


def check_onnx(file: IO[bytes], size_bytes: int) -> None:
    """Step over the outermost fields without reading what they hold.

    Raises:
        TruncatedUpload: the file ends within a field, or before its graph or its operator sets.
        CorruptFile: a field is of no model, or there are far too many.
    """
    at, seen = 0, set()
    for _ in range(_MAX_FIELDS):
        if at == size_bytes:
            break
        file.seek(at)
        head = file.read(1 + _MAX_VARINT_BYTES)
        number = _kind(head[0]) if head[0] < 0x80 else _long(head)
        if number is None:
            raise CorruptFile(f"The file starts like an ONNX model, and holds no field of one at byte {at}.")
        tag_bytes = 1 if head[0] < 0x80 else 2
        value, used = _varint(head[tag_bytes:])
        if used == 0:
            raise TruncatedUpload("The file ends within a field of an ONNX model: it was cut.")
        at += tag_bytes + used + (value if _FIELDS[number] == _BYTES else 0)
        if at > size_bytes:
            raise TruncatedUpload(f"The file has {size_bytes} bytes; its ONNX model goes on to byte {at}.")
        seen.add(number)
    else:
        raise CorruptFile(f"The ONNX model has more than {_MAX_FIELDS} parts.")
    if not {_GRAPH, _OPSET} <= seen:
        raise TruncatedUpload("The ONNX model has no graph, or names no operator set: it was cut.")


def _kind(tag: int) -> int | None:
    """Give the number of a field by its tag, null where no model has such a field."""
    return tag >> 3 if _FIELDS.get(tag >> 3) == tag & 7 else None


def _long(head: bytes) -> int | None:
    if len(head) < 2:
        raise TruncatedUpload("The file ends within a field of an ONNX model: it was cut.")
    return _kind(head[0] & 0x7F | head[1] << 7)


def _varint(content: bytes) -> tuple[int, int]:
    """Read a number; give it with its length, 0 where it does not end."""
    value = 0
    for place, byte in enumerate(content[:_MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, place + 1
    return 0, 0
