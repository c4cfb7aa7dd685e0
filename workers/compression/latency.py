"""Latency of two ONNX files, measured in turn in one process on the same cores."""

from dataclasses import dataclass
from pathlib import Path

from app.domain.report import LatencyFigures, LatencyRatio
from workers.compression import harness
from workers.compression.harness import Feed, Samples

RUNTIME = "onnxruntime-cpu"
SECONDS = 5.0


@dataclass(frozen=True)
class PairedLatency:
    """Both files at one batch size; sample i of each, in milliseconds a batch, belong together."""

    batch_size: int
    threads: int
    baseline_ms: Samples
    compressed_ms: Samples
    baseline: LatencyFigures
    compressed: LatencyFigures
    ratio: LatencyRatio


def measure_pair(
    baseline: Path,
    compressed: Path,
    batch_sizes: tuple[int, ...],
    threads: int,
    seed: int,
    *,
    seconds: float = SECONDS,
) -> tuple[PairedLatency, ...]:
    """Measure each batch size for at most about 1.5 · ``seconds``.

    A file with a fixed batch is measured at that one alone, and never with more threads than there are cores:
    the figures say what was used.
    """
    with harness.pinned(threads) as usable:
        sessions = (harness.open_session(baseline, usable), harness.open_session(compressed, usable))
        rows = harness.make_rows(sessions[0], seed)
        fixed = harness.fixed_batch(sessions[0])
        sizes = batch_sizes if fixed is None else (fixed,)
        return tuple(_describe(harness.time_pair(*sessions, rows, size, seconds), size, usable, seed) for size in sizes)


def sample_rows(path: Path, seed: int) -> Feed:
    """Give the rows that :func:`measure_pair` feeds, repeated to the batch."""
    return harness.make_rows(harness.open_session(path, 1), seed)


def _describe(pair: tuple[Samples, Samples], batch_size: int, threads: int, seed: int) -> PairedLatency:
    value, interval = harness.ratio_of_medians(*pair, seed)
    before, after = (
        LatencyFigures(
            runtime=RUNTIME,
            batch_size=batch_size,
            threads=threads,
            runs=len(samples),
            **harness.summarize(samples, batch_size),
        )
        for samples in pair
    )
    return PairedLatency(
        batch_size=batch_size,
        threads=threads,
        baseline_ms=pair[0],
        compressed_ms=pair[1],
        baseline=before,
        compressed=after,
        ratio=LatencyRatio(value=value, ci95=interval),
    )
