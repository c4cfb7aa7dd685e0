"""Latency of two ONNX files, measured in turn in one process on the same cores."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.report import LatencyFigures, LatencyRatio
from workers.compression import energy, harness
from workers.compression.datasets import Dataset
from workers.compression.harness import Feed, Pair, Samples

RUNTIME = "onnxruntime-cpu"
SECONDS = 10.0
ROWS_SPLIT = "validation"
"""The split that the timed rows are of."""


@dataclass(frozen=True)
class Limits:
    """When to be done, by ``time.monotonic()``.

    Behind ``again_until`` nothing noisy is measured again, behind ``begin_until`` no further batch size.
    """

    again_until: float = math.inf
    begin_until: float = math.inf


@dataclass(frozen=True)
class PairedLatency:
    """Both files at one batch size, round by round; sample i of each, in milliseconds a batch, belong together."""

    batch_size: int
    threads: int
    rounds: tuple[Pair, ...]
    baseline: LatencyFigures
    compressed: LatencyFigures
    ratio: LatencyRatio

    @property
    def baseline_ms(self) -> Samples:
        return harness.together(self.rounds)[0]

    @property
    def compressed_ms(self) -> Samples:
        return harness.together(self.rounds)[1]

    @property
    def noisy(self) -> bool:
        return self.baseline.noisy


def measure_pair(
    baseline: Path,
    compressed: Path,
    batch_sizes: tuple[int, ...],
    threads: int,
    rows: Feed,
    *,
    seconds: float = SECONDS,
    limits: Limits = Limits(),
) -> tuple[PairedLatency, ...]:
    """Measure each batch size for at most about 1.5 · ``seconds``, up to three times that where it is noisy.

    A file with a fixed batch is measured at that one alone, and never with more threads than there are cores:
    the figures say what was used. The first batch size is measured whatever the limits.
    """
    with harness.pinned(threads) as usable:
        fixed = harness.fixed_batch(harness.open_session(baseline, usable))
        found: list[PairedLatency] = []
        for size in batch_sizes if fixed is None else (fixed,):
            if found and time.monotonic() > limits.begin_until:
                break
            rounds = harness.measure((baseline, compressed), usable, rows, size, seconds, limits.again_until)
            used = [_energy(path, usable, rows, size) for path in (baseline, compressed)]
            found.append(describe(rounds, size, usable, (used[0], used[1])))
        return tuple(found)


def rows_of(path: Path, data: Dataset) -> Feed:
    """Give the rows that both files are timed on: the first few that judge, under the file's names for its inputs."""
    inputs, _ = data.gather(ROWS_SPLIT, np.arange(min(harness.SAMPLE_ROWS, data.rows(ROWS_SPLIT))))
    return name_rows(path, [value.numpy() for value in inputs])


def name_rows(path: Path, inputs: Sequence[NDArray[Any]]) -> Feed:
    """Give the first few rows of each input under the file's name for it."""
    names = [value.name for value in harness.open_session(path, 1).get_inputs()]
    return {name: rows[: harness.SAMPLE_ROWS] for name, rows in zip(names, inputs, strict=True)}


def draw_rows(path: Path, seed: int) -> Feed:
    """Give rows for a file where there are no data. Raises ValueError where its inputs have no one size."""
    return harness.draw_rows(harness.open_session(path, 1), seed)


def row_shapes(rows: Feed) -> dict[str, tuple[int, ...]]:
    return {name: tuple(map(int, array.shape[1:])) for name, array in rows.items()}


def _energy(path: Path, threads: int, rows: Feed, batch_size: int) -> float | None:
    if not energy.read():
        return None
    session = harness.open_session(path, threads)
    return energy.measure(session, harness.make_feed(session, rows, batch_size))


def describe(
    rounds: Sequence[Pair], batch_size: int, threads: int, used: tuple[float | None, float | None]
) -> PairedLatency:
    """Make figures of both files' runs; ``used`` are their millijoules a batch."""
    value, interval = harness.ratio_of_medians(rounds)
    noisy = harness.is_noisy(rounds)
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
        for samples, energy_mj in zip(harness.together(rounds), used, strict=True)
    )
    return PairedLatency(
        batch_size=batch_size,
        threads=threads,
        rounds=tuple(rounds),
        baseline=before,
        compressed=after,
        ratio=LatencyRatio(value=value, ci95=interval),
    )
