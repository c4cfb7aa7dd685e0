"""Folders of images that pass a look at names and headers, and are something else within."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.compression.folders import png, write_tar, write_zip
from tests.hostile.crafted.payload import Made

_PIXELS = np.arange(8 * 8 * 3, dtype="uint8").reshape(8, 8, 3)
Members = list[tuple[str, bytes]]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _drawn(width: int, height: int, *chunks: bytes, depth: int = 8, color: int = 2) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def _jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(_PIXELS).save(stream, "JPEG")
    return stream.getvalue()


def make_pictures(folder: Path) -> Iterator[Made]:
    good = png(_PIXELS)
    cut = bytearray(_jpeg())[:-60]
    alone = {
        "picture_pixels_none": _drawn(8, 8),
        "picture_stream_broken": _drawn(8, 8, _chunk(b"IDAT", b"\xff" * 40)),
        "picture_checksum": good[:40] + bytes([good[40] ^ 255]) + good[41:],
        "picture_depth": _drawn(8, 8, _chunk(b"IDAT", zlib.compress(bytes(200))), depth=7),
        "picture_text_bomb": _drawn(8, 8, _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))),
        "picture_profile_bomb": _drawn(8, 8, _chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(80 << 20)))),
        "picture_sixteen_bits": png(np.zeros((8, 8), "uint16")),
        "picture_jpeg_cut": bytes(cut),
        "picture_jpeg_script": b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x08\x00\x08" + b"#!/bin/sh\n" * 9,
    }
    archives: dict[str, Members] = {name: [("train/a/0.png", content)] for name, content in alone.items()}
    archives["picture_sizes"] = [("train/a/0.png", good), ("train/a/1.png", png(_PIXELS[:4]))]
    archives["picture_split"] = [("val/a/0.png", good)]
    archives["picture_class"] = [(f"train/{'a' * 300}/0.png", good)]
    archives["picture_none"] = []
    for name, members in archives.items():
        write_zip(folder / f"{name}.zip", members)
        yield "zip", folder / f"{name}.zip"
        write_tar(folder / f"{name}.tar", members)
        yield "tar", folder / f"{name}.tar"
    write_zip(folder / "picture_case.zip", [("train/a/0.png", good), ("train/A/0.png", good)])
    yield "zip", folder / "picture_case.zip"
    write_tar(folder / "picture_twice.tar", [("train/a/0.png", good)] * 2)
    yield "tar", folder / "picture_twice.tar"
