"""Find NaN and infinite values in raw little-endian numbers, without a numerics library.

A value is infinite or NaN exactly when all bits of its exponent are set. Its highest byte alone rules that out for
every weight below 2^127, so a payload costs one strided copy and two searches.
"""

from typing import Literal, NamedTuple

Finding = Literal["finite", "infinite", "nan"]


class _Layout(NamedTuple):
    """``high`` and ``next_mask``: the exponent's bits in the two highest bytes; a format's size in bytes."""

    size: int
    high: int
    next_mask: int


_LAYOUTS = {
    "float16": _Layout(2, 0x7C, 0x00),
    "bfloat16": _Layout(2, 0x7F, 0x80),
    "float32": _Layout(4, 0x7F, 0x80),
    "float64": _Layout(8, 0x7F, 0xF0),
}


def find_nonfinite(data: bytes, dtype: str) -> Finding:
    """Tell the worst value among ``data``, a whole number of ``dtype`` elements; integers are finite."""
    layout = _LAYOUTS.get(dtype)
    if layout is None:
        return "finite"
    high = data[layout.size - 1 :: layout.size]
    worst: Finding = "finite"
    for byte in range(256):
        if byte & layout.high != layout.high:
            continue
        at = high.find(byte)
        while at >= 0:
            element = data[at * layout.size : (at + 1) * layout.size]
            if element[-2] & layout.next_mask == layout.next_mask:
                if _mantissa(element, layout):
                    return "nan"
                worst = "infinite"
            at = high.find(byte, at + 1)
    return worst


def _mantissa(element: bytes, layout: _Layout) -> int:
    value = int.from_bytes(element, "little")
    return value & ~((layout.high | 0x80) << 8 * (layout.size - 1) | layout.next_mask << 8 * (layout.size - 2))
