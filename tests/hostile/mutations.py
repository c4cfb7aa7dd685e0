"""Seeded damage to real files: flipped bits, overwritten, removed, repeated and swapped bytes, and cuts."""

import random
from collections.abc import Callable

_SPECIAL = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"PK\x03\x04", b"{", b'"')


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _overwrite(data: bytearray, chance: random.Random) -> None:
    piece = chance.choice(_SPECIAL)
    at = chance.randrange(len(data))
    data[at : at + len(piece)] = piece


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _remove(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 2, 16, 500))]


def _repeat(data: bytearray, chance: random.Random) -> None:
    at, length = chance.randrange(len(data)), chance.choice((1, 8, 500))
    data[at:at] = data[at : at + length]


def _swap(data: bytearray, chance: random.Random) -> None:
    a, b = (chance.randrange(len(data)) for _ in range(2))
    data[a : a + 64], data[b : b + 64] = data[b : b + 64], data[a : a + 64]


def _edit_end(data: bytearray, chance: random.Random) -> None:
    """Damage the last bytes, where archives keep their directory."""
    data[-1 - chance.randrange(min(len(data), 2_000))] = chance.randrange(256)


def _edit_start(data: bytearray, chance: random.Random) -> None:
    """Damage the first bytes, where other formats keep their header."""
    data[chance.randrange(min(len(data), 600))] = chance.randrange(256)


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip,
    _overwrite,
    _cut,
    _remove,
    _repeat,
    _swap,
    _edit_end,
    _edit_start,
)


def mutate(content: bytes, seed: int) -> bytes:
    """Damage a file; the same seed gives the same bytes."""
    chance = random.Random(seed)
    data = bytearray(content)
    MUTATIONS[seed % len(MUTATIONS)](data, chance)
    return bytes(data)
