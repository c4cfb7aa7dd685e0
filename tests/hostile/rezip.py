"""Rewrites a real ``.pt2`` with some members changed, in the layout that torch writes."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
SAMPLE = "data/sample_inputs/model.pt"


def read_members(source: Path | IO[bytes]) -> tuple[str, dict[str, bytes]]:
    """Give the root folder with its slash, and every member by its name below it."""
    with zipfile.ZipFile(source) as archive:
        root = archive.namelist()[0].partition("/")[0] + "/"
        return root, {name.removeprefix(root): archive.read(name) for name in archive.namelist()}


def write_members(
    target: Path, members: dict[str, bytes], root: str = "model/", method: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(root + name, content)


def edit_json(source: Path, target: Path, member: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write ``source`` with one JSON member changed in place."""
    _, members = read_members(source)
    document = json.loads(members[member])
    change(document)
    members[member] = json.dumps(document).encode()
    write_members(target, members)


def nested_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()
