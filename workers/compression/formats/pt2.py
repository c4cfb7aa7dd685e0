"""``torch.export`` archives, in and out."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import torch

from app.domain.errors import CorruptFile, UnsupportedNetwork, WinnowError
from workers.compression.lifting import QUANTIZED, lift
from workers.compression.network import Network


def load(path: Path) -> Network:
    """Read a ``.pt2`` archive.

    The file must have been admitted before: torch runs code from the shape expressions it reads.

    Raises:
        CorruptFile: the archive is damaged or no exported program.
        UnsupportedNetwork: the program does something that no :class:`Network` can.
    """
    _check_members(path)
    # Without it torch falls back to unpickling whatever the archive holds.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        exported = torch.export.load(path)
    except Exception as error:
        raise CorruptFile(f"The archive cannot be read as an exported program: {error}") from error
    try:
        return lift(exported)
    except WinnowError:
        raise
    except Exception as error:
        raise UnsupportedNetwork(f"The exported program cannot be taken apart: {error}") from error


def save(network: Network, path: Path) -> None:
    """Write the network as a ``.pt2`` archive; the same network gives the same bytes."""
    exported = network.export()
    for node in exported.graph.nodes:
        # These name files and lines of whoever ran the export.
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(key, None)
    # Given a path, torch writes the file's own name into the archive.
    with path.open("wb") as file:
        torch.export.save(exported, file)


def _check_members(path: Path) -> None:
    """Compare every member with its checksum, which torch's own reader leaves out."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            graphs = [name for name in archive.namelist() if name.endswith(".json")]
            quantized = any(QUANTIZED.encode() in archive.read(name) for name in graphs)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise CorruptFile(f"The file is no readable zip archive: {error}") from error
    if damaged is not None:
        raise CorruptFile(f"The archive's member {damaged!r} does not match its checksum.")
    if quantized:
        # Registers the operators that such a program calls.
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401
