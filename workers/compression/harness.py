"""Time two ONNX files against each other: the engine measures with it, and a job's benchmark.zip carries it.

Needs numpy and onnxruntime alone. Beside the files of a bundle, ``python benchmark.py`` repeats the measurement.
"""

import argparse
import contextlib
import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]
Samples = NDArray[np.float64]

SAMPLE_ROWS = 4
MAX_PAIRS = 500
MIN_PAIRS = 20
WIDEST_SPREAD = 0.25
"""A quiet file's quartiles lie within 1 to 8 % of its median, those of one that shares its cores far apart."""
WARM_UP_WINDOW = 10
WARM_UP_TOLERANCE = 0.05
RESAMPLES = 2000
CHUNK = 100
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def open_session(path: Path, threads: int, profile: str | None = None) -> onnxruntime.InferenceSession:
    """Load a file as it would be deployed, but for spinning.

    An idle session's threads would spin on the cores that the other session is being timed on. With ``profile``, the
    runtime writes how long each operator took to a file whose name begins so.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def make_rows(session: onnxruntime.InferenceSession, seed: int) -> dict[str, NDArray[Any]]:
    """Draw a few rows for each input: normal floats, zeros of any other dtype."""
    generator = np.random.default_rng(seed)
    rows: dict[str, NDArray[Any]] = {}
    for value in session.get_inputs():
        # A dynamic dimension besides the batch has no natural size; one is always allowed.
        shape = [SAMPLE_ROWS, *(size if isinstance(size, int) else 1 for size in value.shape[1:])]
        dtype = np.dtype(DTYPES[value.type])
        drawn = generator.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        rows[value.name] = drawn.astype(dtype)
    return rows


def make_feed(session: onnxruntime.InferenceSession, rows: Feed, batch_size: int) -> dict[str, NDArray[Any]]:
    """Repeat the rows to a batch, in the order of the file's inputs, under its own names for them."""
    return {
        value.name: np.resize(array, (batch_size, *array.shape[1:]))
        for value, array in zip(session.get_inputs(), rows.values(), strict=True)
    }


def fixed_batch(session: onnxruntime.InferenceSession) -> int | None:
    """Give the one batch size that a file takes, None where it takes any."""
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) else None


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[int]:
    """Keep this thread, and those started within, on the same cores; give the threads that have a core each."""
    allowed = os.sched_getaffinity(0)
    cores = sorted(allowed)[:threads]
    os.sched_setaffinity(0, cores)
    try:
        yield len(cores)
    finally:
        os.sched_setaffinity(0, allowed)


def time_pair(
    baseline: onnxruntime.InferenceSession,
    compressed: onnxruntime.InferenceSession,
    rows: Feed,
    batch_size: int,
    seconds: float,
) -> tuple[Samples, Samples]:
    """Time both in turn, in milliseconds a batch: 500 pairs, or as many as ``seconds`` allow but at least 20.

    Each turn begins with a run that is not counted: the other file has just filled the caches with its own
    weights, and a deployed network does not share them. Which goes first changes with every pair.
    """
    sides = tuple((session, make_feed(session, rows, batch_size)) for session in (baseline, compressed))
    _warm_up(sides, seconds / 2)
    samples = np.empty((MAX_PAIRS, 2))
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = time.perf_counter() + seconds
        for index in range(MAX_PAIRS):
            if index >= MIN_PAIRS and time.perf_counter() > deadline:
                samples = samples[:index]
                break
            for side in (0, 1) if index % 2 == 0 else (1, 0):
                _time_once(*sides[side])
                samples[index, side] = _time_once(*sides[side])
    finally:
        if collecting:
            gc.enable()
    return samples[:, 0].copy(), samples[:, 1].copy()


def _time_once(session: onnxruntime.InferenceSession, feed: Feed) -> float:
    start = time.perf_counter_ns()
    session.run(None, feed)
    return (time.perf_counter_ns() - start) / 1e6


def _warm_up(sides: tuple[tuple[onnxruntime.InferenceSession, Feed], ...], seconds: float) -> None:
    """Run both until neither's median moves by more than 5 % from one window to the next."""
    deadline = time.perf_counter() + seconds
    last = np.full(len(sides), np.inf)
    while time.perf_counter() < deadline:
        window = [[_time_once(*side) for side in sides] for _ in range(WARM_UP_WINDOW)]
        medians = np.median(window, axis=0)
        if np.all(np.abs(medians - last) <= WARM_UP_TOLERANCE * medians):
            return
        last = medians


def summarize(samples: Samples, batch_size: int) -> dict[str, float]:
    """Give mean and percentiles in milliseconds a batch, rows a second at the mean, and (p75 − p25) / p50."""
    p25, p50, p75, p90, p95, p99 = (float(value) for value in np.percentile(samples, (25, 50, 75, 90, 95, 99)))
    mean = float(samples.mean())
    return {
        "mean_ms": mean,
        "p25_ms": p25,
        "p50_ms": p50,
        "p75_ms": p75,
        "p90_ms": p90,
        "p95_ms": p95,
        "p99_ms": p99,
        "throughput_per_second": 1000 * batch_size / mean,
        "spread": (p75 - p25) / p50,
    }


def ratio_of_medians(baseline: Samples, compressed: Samples, seed: int) -> tuple[float, tuple[float, float]]:
    """Give median(baseline) / median(compressed) and its 95 % interval: a bootstrap that draws whole pairs."""
    generator = np.random.default_rng(seed)
    ratios: list[NDArray[Any]] = []
    for _ in range(RESAMPLES // CHUNK):
        drawn = generator.integers(len(baseline), size=(CHUNK, len(baseline)))
        ratios.append(np.median(baseline[drawn], axis=1) / np.median(compressed[drawn], axis=1))
    low, high = np.percentile(np.concatenate(ratios), (2.5, 97.5))
    return float(np.median(baseline) / np.median(compressed)), (float(low), float(high))


def main() -> None:
    folder = Path(__file__).resolve().parent
    settings = json.loads((folder / "benchmark.json").read_text())
    parser = argparse.ArgumentParser(description="Time baseline.onnx and model.onnx in turn on the same cores.")
    parser.add_argument("--threads", type=int, nargs="+", default=settings["threads"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=settings["batch_sizes"])
    parser.add_argument("--seconds", type=float, default=settings["seconds"], help="limit for each batch size")
    asked = parser.parse_args()
    for name, digest in settings["sha256"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{name} is not the file that was measured")
    with np.load(folder / "inputs.npz") as stored:
        rows = {name: stored[name] for name in settings["inputs"]}
    out = sys.stdout.write
    out(f"{'batch':>5} {'threads':>7} {'file':<14} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9} {'rows/s':>9}\n")
    for threads in asked.threads:
        _repeat(folder, rows, threads, asked.batch_sizes, asked.seconds, settings["seed"])


def _repeat(folder: Path, rows: Feed, threads: int, batch_sizes: list[int], seconds: float, seed: int) -> None:
    """Measure with one number of threads, and print a line for each file and batch size."""
    out = sys.stdout.write
    names = ("baseline.onnx", "model.onnx")
    with pinned(threads) as usable:
        baseline, model = (open_session(folder / name, usable) for name in names)
        for batch_size in batch_sizes:
            pair = time_pair(baseline, model, rows, batch_size, seconds)
            for name, samples in zip(names, pair, strict=True):
                figures = summarize(samples, batch_size)
                columns = " ".join(f"{figures[key]:9.3f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
                noisy = "  noisy" if figures["spread"] > WIDEST_SPREAD else ""
                row = f"{batch_size:>5} {usable:>7} {name:<14} {columns} {figures['throughput_per_second']:9.1f}"
                out(f"{row}{noisy}\n")
            value, (low, high) = ratio_of_medians(*pair, seed)
            out(f"      ratio of medians {value:.2f} (95 % {low:.2f} to {high:.2f}), {len(pair[0])} pairs\n")


if __name__ == "__main__":
    main()
