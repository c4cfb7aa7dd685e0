"""What a damaged file that was let pass holds, and what comes of working with it."""

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from safetensors.numpy import load_file

from app.domain.dataset import DatasetFormat
from app.domain.errors import WinnowError
from app.domain.model import Signature, TensorSpec
from tests.hostile.rezip import read_members
from workers.compression.datasets import load_dataset, open_tables
from workers.compression.formats import pt2
from workers.compression.formats.rows import rows_folder

_ADDRESS_SPACE_BYTES = 4 << 30
_ROWS = TensorSpec(name="x", dtype="float32", shape=("batch", 8))
_PICTURES = TensorSpec(name="x", dtype="float32", shape=("batch", 3, 8, 8))
_CLASSES = TensorSpec(name="output", dtype="float32", shape=("batch", 4))
_REFUSALS = (
    WinnowError,
    MemoryError,
    runtime.EPFail,
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.NotImplemented,
    runtime.RuntimeException,
)


def _of_arrays(arrays: dict[str, Any]) -> object:
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


def _of_npz(path: Path) -> object:
    with np.load(path, allow_pickle=False) as archive:
        return _of_arrays(dict(archive))


def _of_rows(path: Path, format_: DatasetFormat) -> object:
    try:
        tables, names = open_tables(path, format_)
        return names, {
            split: _of_arrays({name: read() for name, read in table.items()}) for split, table in tables.items()
        }
    finally:
        shutil.rmtree(rows_folder(path), ignore_errors=True)


CONTENTS: dict[str, Callable[[Path], object]] = {
    "pt2": lambda path: read_members(path)[1],
    "onnx": lambda path: onnx.load(path).SerializeToString(deterministic=True),
    "npz": _of_npz,
    "safetensors": lambda path: _of_arrays(load_file(path)),
    "zip": lambda path: _of_rows(path, "zip"),
    "tar": lambda path: _of_rows(path, "tar"),
    "parquet": lambda path: _of_rows(path, "parquet"),
}
"""Give what a file says, whatever the bytes that say nothing."""


def _run_pt2(path: Path) -> None:
    network = pt2.load(path)
    with torch.inference_mode():
        network.module(*network.example_inputs())


def _run_onnx(path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros((2, 3, 16, 16), "float32")})


def _read_rows(path: Path, format_: DatasetFormat, rows: TensorSpec = _ROWS) -> None:
    try:
        dataset = load_dataset(path, format_, Signature(inputs=(rows,), outputs=(_CLASSES,)), 0)
        for split in dataset.splits:
            for inputs, _ in dataset.batches(split, 16):
                inputs[0].sum()
    finally:
        shutil.rmtree(rows_folder(path), ignore_errors=True)


WORK: dict[str, Callable[[Path], None]] = {
    "pt2": _run_pt2,
    "onnx": _run_onnx,
    "npz": lambda path: _read_rows(path, "npz"),
    "safetensors": lambda path: _read_rows(path, "safetensors"),
    "zip": lambda path: _read_rows(path, "zip", _PICTURES),
    "tar": lambda path: _read_rows(path, "tar", _PICTURES),
    "parquet": lambda path: _read_rows(path, "parquet"),
}


def work_with(kind: str, path: Path) -> str | None:
    """Run a network or read a data set through, with little memory; name the refusal, null where there was none.

    Anything but a clean refusal is raised.
    """
    with _little_memory():
        try:
            WORK[kind](path)
        except _REFUSALS as error:
            return str(getattr(error, "code", type(error).__name__))
    return None


@contextmanager
def _little_memory() -> Iterator[None]:
    """Bound this process as the sandbox bounds its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + _ADDRESS_SPACE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
