"""Pickles under every name, and zip archives that are not what they say."""

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.crafted.payload import Made, Payload
from tests.hostile.rezip import GRAPH, nested_zip, read_members, write_members


def make_pickles(folder: Path) -> Iterator[Made]:
    """Bare pickles and torch.save archives under every extension."""
    payload = Payload()
    for kind in ("pt2", "onnx", "npz", "safetensors", "zip", "tar"):
        for protocol in (0, 2, 4):
            path = folder / f"pickle_{protocol}.{kind}"
            path.write_bytes(pickle.dumps(payload, protocol=protocol))
            yield kind, path
        path = folder / f"saved.{kind}"
        path.write_bytes(nested_zip({"archive/data.pkl": pickle.dumps(payload, protocol=2), "archive/version": b"3"}))
        yield kind, path
        for name, content in {"empty": b"", "text": b"hello world", "zeros": bytes(4096)}.items():
            path = folder / f"{name}.{kind}"
            path.write_bytes(content)
            yield kind, path


def make_zips(folder: Path, real: Path) -> Iterator[Made]:
    _, members = read_members(real)
    whole = real.read_bytes()
    for name, content in {
        "data_before": b"MZ" + whole,
        "data_after": whole + b"tail",
        "comment": whole[:-2] + b"\x04\x00tail",
        "count": whole[:-14] + b"\x03\x00\x03\x00" + whole[-10:],
        "directory_twice": whole[:-22] + whole[_directory(whole) :],
    }.items():
        path = folder / f"zip_{name}.pt2"
        path.write_bytes(content)
        yield "pt2", path
    for name, member in {
        "traversal": "../../evil",
        "absolute": "/etc/passwd",
        "backslash": "..\\evil",
        "drive": "C:/evil",
        "dot": "./model/x",
        "control": "model/\x1b[2J",
        "folder": "model/data/",
    }.items():
        path = folder / f"zip_{name}.pt2"
        write_members(path, members)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(member, b"x" if not member.endswith("/") else b"")
        yield "pt2", path
    path = folder / "zip_case.pt2"
    write_members(path, members | {GRAPH.upper(): members[GRAPH]})
    yield "pt2", path
    path = folder / "zip_deflated.pt2"
    write_members(path, members, method=zipfile.ZIP_DEFLATED)
    yield "pt2", path
    path = folder / "zip_link.pt2"
    write_members(path, members)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("model/extra")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    yield "pt2", path
    path = folder / "zip_encrypted.pt2"
    path.write_bytes(_set_flags(whole, 0x1))
    yield "pt2", path
    path = folder / "zip_overlap.pt2"
    path.write_bytes(_overlap(members))
    yield "pt2", path


def _directory(content: bytes) -> int:
    """Give the offset of the archive's directory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.start_dir


def _set_flags(content: bytes, bit: int) -> bytes:
    """Set a flag of the first member in the directory and in its own header."""
    changed = bytearray(content)
    changed[6] |= bit
    changed[_directory(content) + 8] |= bit
    return bytes(changed)


def _overlap(members: dict[str, bytes]) -> bytes:
    """Let the directory's second entry point at the first member."""
    content = bytearray(nested_zip({f"model/{name}": value for name, value in members.items()}))
    first = _directory(bytes(content))
    second = content.index(b"PK\x01\x02", first + 4)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    return bytes(content)
