"""``benchmark.zip``: all that is needed to repeat a job's timing elsewhere with one command."""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from app.domain.report import Environment
from workers.compression import harness
from workers.compression.latency import SECONDS, PairedLatency

# Zip's own epoch: the bytes must not tell when they were packed.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_README = """Repeat the measurement:

    python -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/python benchmark.py

samples.csv holds the raw samples of the job, environment.json what they were taken on. inputs.npz holds the rows that
both files run: the first few validation rows of the job's data set. Mind that before you pass it on.
"""


def write_bundle(
    path: Path,
    baseline: Path,
    compressed: Path,
    latency: Sequence[PairedLatency],
    rows: harness.Feed,
    *,
    environment: Environment,
) -> None:
    """Pack the harness, both files, their rows, the raw samples and the environment; same content, same bytes."""
    files = {
        "README.txt": _README.encode(),
        "benchmark.py": Path(harness.__file__).read_bytes(),
        "requirements.txt": f"numpy=={np.__version__}\nonnxruntime=={onnxruntime.__version__}\n".encode(),
        "baseline.onnx": baseline.read_bytes(),
        "model.onnx": compressed.read_bytes(),
        "inputs.npz": _npz(rows),
        "samples.csv": _samples(latency),
        "environment.json": environment.model_dump_json(indent=2).encode(),
    }
    settings = {
        "batch_sizes": list(dict.fromkeys(measured.batch_size for measured in latency)),
        "threads": list(dict.fromkeys(measured.threads for measured in latency)),
        "seconds": SECONDS,
        "inputs": list(rows),
        "sha256": {
            name: hashlib.sha256(files[name]).hexdigest() for name in ("baseline.onnx", "model.onnx", "inputs.npz")
        },
    }
    files["benchmark.json"] = json.dumps(settings, indent=2).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in sorted(files.items()):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr = 0o644 << 16
            # Weights hardly compress, and there may be much of them.
            packed = zipfile.ZIP_STORED if name.endswith((".onnx", ".npz")) else zipfile.ZIP_DEFLATED
            archive.writestr(member, content, compress_type=packed)


def _npz(rows: harness.Feed) -> bytes:
    """Write an ``.npz`` member by member: to ``numpy.savez``, an input called ``file`` is an argument of its own."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, values in rows.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)
    return stream.getvalue()


def _samples(latency: Sequence[PairedLatency]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("batch_size", "threads", "round", "pair", "baseline_ms", "compressed_ms"))
    for measured in latency:
        for number, samples in enumerate(measured.rounds):
            for pair, (ours, theirs) in enumerate(zip(*samples, strict=True)):
                row = (measured.batch_size, measured.threads, number, pair, f"{ours:.6f}", f"{theirs:.6f}")
                writer.writerow(row)
    return stream.getvalue().encode()
