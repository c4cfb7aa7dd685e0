"""Data sets: arrays, tensors and images that claim what they do not hold."""

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hostile.crafted.payload import Made
from tests.hostile.rezip import nested_zip


def _npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def make_arrays(folder: Path) -> Iterator[Made]:
    good = "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n"
    headers = {
        "object": good.replace("<f4", "|O"),
        "structured": good.replace("'<f4'", "[('a', '<f4')]"),
        "text": good.replace("<f4", "<U4"),
        "void": good.replace("<f4", "|V4"),
        "date": good.replace("<f4", "<M8[s]"),
        "call": "__import__('os').system('touch marker')",
        "two_gigabytes": good.replace("(4,)", "(536870912,)"),
        "negative": good.replace("(4,)", "(-4,)"),
        "huge": good.replace("(4,)", "(99999999999999999999,)"),
        "boolean": good.replace("(4,)", "(True, 4)"),
        "surplus": good.replace("'shape'", "'more': 1, 'shape'"),
        "deep": "(" * 5000,
        "big_endian": good.replace("<f4", ">f4"),
        "rank": good.replace("(4,)", str((1,) * 64)),
    }
    arrays = {f"npy_{name}": {"train.x.npy": _npy(header, bytes(16))} for name, header in headers.items()}
    arrays["npy_version"] = {"train.x.npy": _npy(good, bytes(16), b"\x09\x00")}
    arrays["npy_long"] = {"train.x.npy": _npy(good, bytes(17))}
    arrays["npy_short"] = {"train.x.npy": _npy(good, bytes(15))}
    arrays["npy_member"] = {"train.x.npy": _npy(good, bytes(16)), "run.py": b"x"}
    arrays["npy_traversal"] = {"../train.x.npy": _npy(good, bytes(16))}
    for name, members in arrays.items():
        path = folder / f"{name}.npz"
        path.write_bytes(nested_zip(members))
        yield "npz", path
    path = folder / "bomb.npz"  # a stored member of 8 kB that claims a deflated one of 2 GB
    content = bytearray(nested_zip({"train.x.npy": _npy(good, bytes(8192))}))
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 2**31)
    path.write_bytes(bytes(content))
    yield "npz", path


def make_tensors(folder: Path) -> Iterator[Made]:
    def entry(**changes: Any) -> dict[str, Any]:
        return {"train.x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}

    documents: dict[str, Any] = {
        "dtype": entry(dtype="OBJECT"),
        "two_gigabytes": entry(shape=[1 << 29]),
        "negative": entry(shape=[-4]),
        "fraction": entry(shape=[4.0]),
        "beyond": entry(data_offsets=[0, 1 << 30]),
        "reversed": entry(data_offsets=[16, 0]),
        "gap": entry(data_offsets=[4, 20]),
        "surplus": entry(more=1),
        "overlap": entry() | {"train.y": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
        "metadata": entry() | {"__metadata__": {"a": 1}},
        "list": [1],
    }
    texts = {name: json.dumps(document) for name, document in documents.items()}
    texts["duplicate"] = '{"a": {}, "a": {}}'
    texts["deep"] = "[" * 100_000
    texts["nan"] = json.dumps(entry()).replace("16", "NaN")
    for name, text in texts.items():
        path = folder / f"header_{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(16))
        yield "safetensors", path
    for name, length in {"length": 1 << 62, "long": 1 << 31, "short": 3}.items():
        path = folder / f"header_{name}.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(16))
        yield "safetensors", path


def make_images(folder: Path) -> Iterator[Made]:
    def png(width: int, height: int) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0)

    for name, (member, content) in {
        "pixels": ("train/a/x.png", png(100_000, 100_000)),
        "nothing": ("train/a/x.png", png(0, 9)),
        "script": ("train/a/x.png", b"#!/bin/sh\n"),
        "cut": ("train/a/x.png", png(9, 9)[:18]),
        "jpeg_cut": ("train/a/x.jpg", b"\xff\xd8\xff\xe0\x00"),
        "place": ("x.png", png(9, 9)),
        "traversal": ("../a/x.png", png(9, 9)),
        "absolute": ("/train/a/x.png", png(9, 9)),
    }.items():
        path = folder / f"image_{name}.zip"
        path.write_bytes(nested_zip({member: content}))
        yield "zip", path
        path = folder / f"image_{name}.tar"
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        yield "tar", path
    path = folder / "image_bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/x.png", bytes(100 << 20))
    yield "zip", path
    for name, kind in {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}.items():
        path = folder / f"image_{name}.tar"
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo("train/a/x.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        yield "tar", path
    path = folder / "image_compressed.tar"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("train/a/x.png"))
    yield "tar", path
