"""The protobuf wire format, as much as it takes to look at a message before a library builds objects of it."""

from collections.abc import Iterator
from typing import NamedTuple

from app.domain.errors import CorruptFile

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class Field(NamedTuple):
    """``value`` is of a varint, or the length of what starts at ``start``."""

    number: int
    wire: int
    value: int
    start: int


def read_varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """Give the value and the position behind it."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= end:
            break
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & (1 << 64) - 1, at + index + 1
    raise CorruptFile(f"The file holds a broken number at byte {at}.")


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """Walk over the fields of the message between two positions."""
    at = start
    while at < end:
        tag, at = read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = read_varint(data, at, end)
            yield Field(number, wire, value, at)
            continue
        if wire == BYTES:
            length, at = read_varint(data, at, end)
        elif wire in {FIXED64, FIXED32}:
            length = 8 if wire == FIXED64 else 4
        else:
            raise CorruptFile(f"The file holds a field of the unknown kind {wire} at byte {at}.")
        if not number or length > end - at:
            raise CorruptFile(f"The file holds a field that runs beyond its message at byte {at}.")
        yield Field(number, wire, length, at)
        at += length
