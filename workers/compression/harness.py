"""Time two ONNX files against each other: the engine measures with it, and a job's benchmark.zip carries it.

Needs numpy and onnxruntime alone. Beside the files of a bundle, ``python benchmark.py`` repeats the measurement.
"""

import argparse
import contextlib
import gc
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]
Samples = NDArray[np.float64]
Pair = tuple[Samples, Samples]
"""Runs of the baseline and of the other file, in milliseconds a batch; those at the same place belong together."""

SAMPLE_ROWS = 4
ROUNDS = 5
"""How often both files are loaded anew and timed: where they lie in memory differs from load to load."""
MAX_PAIRS = 500
MIN_PAIRS = 20
TRIES = 3
"""How often a noisy timing is repeated before it is told as such."""
MOST_SECONDS_A_ROUND = 20.0
"""Behind this a round of a slow file ends with the pairs that it has, but for the first."""
WIDEST_SPREAD = 0.25
"""A quiet file's quartiles lie within 1 to 8 % of its median, those of one that shares its cores far apart."""
WARM_UP_WINDOW = 10
WARM_UP_TOLERANCE = 0.05
T_975 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 % by degrees of freedom."""
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


def open_session(
    path: Path, threads: int, profile: str | None = None, optimized: Path | None = None
) -> onnxruntime.InferenceSession:
    """Load a file as it would be deployed, but for spinning.

    An idle session's threads would spin on the cores that the other session is being timed on. With ``profile``, the
    runtime writes how long each operator took to a file whose name begins so; to ``optimized``, the graph that it runs.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def draw_rows(session: onnxruntime.InferenceSession, seed: int) -> dict[str, NDArray[Any]]:
    """Draw a few rows for each input: normal floats, zeros of any other dtype.

    Raises ValueError where a dimension besides the batch is dynamic: time and memory depend on its size, which only
    data can tell.
    """
    generator = np.random.default_rng(seed)
    rows: dict[str, NDArray[Any]] = {}
    for value in session.get_inputs():
        sizes = [size for size in value.shape[1:] if isinstance(size, int)]
        if len(sizes) < len(value.shape) - 1:
            raise ValueError(f"rows of {value.name} have no size of their own: {value.shape}")
        dtype = np.dtype(DTYPES[value.type])
        shape = [SAMPLE_ROWS, *sizes]
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
    """Keep this thread, and those started within, on the same cores; give the threads that have a core each.

    Where the system pins nothing (macOS, Windows), it moves threads as it likes.
    """
    if sys.platform != "linux":
        yield min(threads, os.cpu_count() or 1)
        return
    allowed = os.sched_getaffinity(0)
    cores = sorted(allowed)[:threads]
    os.sched_setaffinity(0, cores)
    try:
        yield len(cores)
    finally:
        os.sched_setaffinity(0, allowed)


def measure(
    paths: tuple[Path, Path],
    threads: int,
    rows: Feed,
    batch_size: int,
    seconds: float,
    again_until: float = math.inf,
) -> tuple[Pair, ...]:
    """Time both files, again while that is noisy and ``time.monotonic()`` below ``again_until``; keep the steadiest."""
    tries: list[tuple[Pair, ...]] = []
    while not tries or (is_noisy(tries[-1]) and len(tries) < TRIES and time.monotonic() < again_until):
        tries.append(time_rounds(paths, threads, rows, batch_size, seconds))
    return min(tries, key=widest_spread)


def time_rounds(
    paths: tuple[Path, Path], threads: int, rows: Feed, batch_size: int, seconds: float
) -> tuple[Pair, ...]:
    """Load both files and time them in turn, five times over: up to 500 pairs or ``seconds``, but 20 pairs at least."""
    rounds = []
    for number in range(ROUNDS):
        sessions = [open_session(path, threads) for path in (paths if number % 2 == 0 else paths[::-1])]
        baseline, other = sessions if number % 2 == 0 else sessions[::-1]
        rounds.append(time_pair(baseline, other, rows, batch_size, seconds / ROUNDS))
    return tuple(rounds)


def time_pair(
    baseline: onnxruntime.InferenceSession,
    compressed: onnxruntime.InferenceSession,
    rows: Feed,
    batch_size: int,
    seconds: float,
) -> Pair:
    """Time both in turn, in milliseconds a batch: a round of 100 pairs, or as many as ``seconds`` allow but at least 4.

    Each turn begins with a run that is not counted: the other file has just filled the caches with its own
    weights, and a deployed network does not share them. Which goes first changes with every pair.
    """
    sides = tuple((session, make_feed(session, rows, batch_size)) for session in (baseline, compressed))
    began = time.perf_counter()
    _warm_up(sides, seconds / 2)
    samples = np.empty((MAX_PAIRS // ROUNDS, 2))
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = time.perf_counter() + seconds
        for index in range(len(samples)):
            now = time.perf_counter()
            late = now > began + MOST_SECONDS_A_ROUND and index > 0
            if (index >= MIN_PAIRS // ROUNDS and now > deadline) or late:
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
        window: list[list[float]] = []
        while len(window) < WARM_UP_WINDOW and (not window or time.perf_counter() < deadline):
            window.append([_time_once(*side) for side in sides])
        medians = np.median(window, axis=0)
        if np.all(np.abs(medians - last) <= WARM_UP_TOLERANCE * medians):
            return
        last = medians


def together(rounds: Sequence[Pair]) -> Pair:
    """Give all runs of each file, round after round."""
    return np.concatenate([pair[0] for pair in rounds]), np.concatenate([pair[1] for pair in rounds])


def widest_spread(rounds: Sequence[Pair]) -> float:
    return max(summarize(samples, 1)["spread"] for samples in together(rounds))


def is_noisy(rounds: Sequence[Pair]) -> bool:
    return widest_spread(rounds) > WIDEST_SPREAD


def summarize(samples: Samples, batch_size: int) -> dict[str, float]:
    """Give mean and percentiles in milliseconds a batch, rows a second at the median, and (p75 − p25) / p50."""
    p25, p50, p75, p90, p95, p99 = (float(value) for value in np.percentile(samples, (25, 50, 75, 90, 95, 99)))
    return {
        "mean_ms": float(samples.mean()),
        "p25_ms": p25,
        "p50_ms": p50,
        "p75_ms": p75,
        "p90_ms": p90,
        "p95_ms": p95,
        "p99_ms": p99,
        # One stall of a busy machine decides a mean of fast runs.
        "throughput_per_second": 1000 * batch_size / p50,
        "spread": (p75 - p25) / p50,
    }


def ratio_of_medians(rounds: Sequence[Pair]) -> tuple[float, tuple[float, float]]:
    """Give median(baseline) / median(other) of all runs, and its 95 % interval by Student's t over rounds.

    Rounds are what is independent, not pairs: two loads of one file differ by more than the runs of one load tell
    (Kalibera and Jones 2013, section 9). The interval is that of the mean logarithm of the rounds' ratios, wide enough
    to hold the ratio of all.
    """
    value = _ratio(together(rounds))
    logs = np.log([_ratio(pair) for pair in rounds])
    reach = T_975[len(logs) - 1] * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    low, high = math.exp(float(logs.mean()) - reach), math.exp(float(logs.mean()) + reach)
    return value, (min(low, value), max(high, value))


def _ratio(pair: Pair) -> float:
    return float(np.median(pair[0]) / np.median(pair[1]))


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
    shapes = ", ".join(f"{name} {' x '.join(map(str, array.shape[1:]))}" for name, array in rows.items())
    out(f"rows of {shapes}\n")
    out(f"{'batch':>5} {'threads':>7} {'file':<14} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9} {'rows/s':>9}\n")
    for threads in asked.threads:
        _repeat(folder, rows, threads, asked.batch_sizes, asked.seconds)


def _repeat(folder: Path, rows: Feed, threads: int, batch_sizes: list[int], seconds: float) -> None:
    """Measure with one number of threads, and print a line for each file and batch size."""
    out = sys.stdout.write
    names = ("baseline.onnx", "model.onnx")
    with pinned(threads) as usable:
        for batch_size in batch_sizes:
            rounds = measure((folder / names[0], folder / names[1]), usable, rows, batch_size, seconds)
            noisy = "  noisy" if is_noisy(rounds) else ""
            for name, samples in zip(names, together(rounds), strict=True):
                figures = summarize(samples, batch_size)
                columns = " ".join(f"{figures[key]:9.3f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
                row = f"{batch_size:>5} {usable:>7} {name:<14} {columns} {figures['throughput_per_second']:9.1f}"
                out(f"{row}{noisy}\n")
            value, (low, high) = ratio_of_medians(rounds)
            pairs = sum(len(pair[0]) for pair in rounds)
            out(f"      ratio of medians {value:.2f} (95 % {low:.2f} to {high:.2f}), {pairs} pairs{noisy}\n")


if __name__ == "__main__":
    main()
