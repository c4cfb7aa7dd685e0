"""Latency of two ONNX files, measured in turn in one process on the same cores."""

from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from app.domain.report import LatencyFigures, LatencyRatio
from workers.compression import energy, harness
from workers.compression.harness import WIDEST_SPREAD, Feed, Samples

RUNTIME = "onnxruntime-cpu"
SECONDS = 10.0
TRIES = 3
"""How often a noisy pair is measured before it is told as such."""


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

    @property
    def noisy(self) -> bool:
        return self.baseline.noisy


def measure_pair(
    baseline: Path,
    compressed: Path,
    batch_sizes: tuple[int, ...],
    threads: int,
    seed: int,
    *,
    seconds: float = SECONDS,
) -> tuple[PairedLatency, ...]:
    """Measure each batch size for at most about 1.5 · ``seconds``, up to three times that where it is noisy.

    A file with a fixed batch is measured at that one alone, and never with more threads than there are cores:
    the figures say what was used.
    """
    with harness.pinned(threads) as usable:
        sessions = (harness.open_session(baseline, usable), harness.open_session(compressed, usable))
        rows = harness.make_rows(sessions[0], seed)
        fixed = harness.fixed_batch(sessions[0])
        sizes = batch_sizes if fixed is None else (fixed,)
        return tuple(_measure(sessions, rows, size, usable, seed, seconds) for size in sizes)


def sample_rows(path: Path, seed: int) -> Feed:
    """Give the rows that :func:`measure_pair` feeds, repeated to the batch."""
    return harness.make_rows(harness.open_session(path, 1), seed)


def _measure(
    sessions: tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession],
    rows: Feed,
    batch_size: int,
    threads: int,
    seed: int,
    seconds: float,
) -> PairedLatency:
    """Time both, again while one of them is noisy; of noisy tries the steadiest is kept, and marked."""
    pairs: list[tuple[Samples, Samples]] = []
    while not pairs or (_spread(pairs[-1]) > WIDEST_SPREAD and len(pairs) < TRIES):
        pairs.append(harness.time_pair(*sessions, rows, batch_size, seconds))
    steadiest = min(pairs, key=_spread)
    used = [energy.measure(session, harness.make_feed(session, rows, batch_size)) for session in sessions]
    return _describe(steadiest, batch_size, threads, seed, (used[0], used[1]))


def _spread(pair: tuple[Samples, Samples]) -> float:
    return max(harness.summarize(samples, 1)["spread"] for samples in pair)


def _describe(
    pair: tuple[Samples, Samples],
    batch_size: int,
    threads: int,
    seed: int,
    used: tuple[float | None, float | None],
) -> PairedLatency:
    value, interval = harness.ratio_of_medians(*pair, seed)
    noisy = _spread(pair) > WIDEST_SPREAD
    before, after = (
        LatencyFigures(
            runtime=RUNTIME,
            batch_size=batch_size,
            threads=threads,
            runs=len(samples),
            noisy=noisy,
            energy_mj=energy_mj,
            **harness.summarize(samples, batch_size),
        )
        for samples, energy_mj in zip(pair, used, strict=True)
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
