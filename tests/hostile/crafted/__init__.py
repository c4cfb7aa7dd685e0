"""Crafted files, each with the one thing that makes it hostile.

Code that gets to run makes the file that the environment names as MARKER.
"""

from collections.abc import Iterator
from pathlib import Path

from tests.hostile.crafted import archives, data, onnx, pictures, pt2, tables
from tests.hostile.crafted.payload import Made


def make_all(folder: Path, real: Path) -> Iterator[Made]:
    """Write every crafted file. ``real`` is an exported residual network with a dynamic batch."""
    yield from pt2.make_graphs(folder, real)
    yield from pt2.make_weights(folder, real)
    yield from pt2.make_members(folder, real)
    yield from archives.make_pickles(folder)
    yield from archives.make_zips(folder, real)
    yield from data.make_arrays(folder)
    yield from data.make_tensors(folder)
    yield from onnx.make_models(folder)
    yield from data.make_images(folder)
    yield from pictures.make_pictures(folder)
    yield from tables.make_tables(folder)
