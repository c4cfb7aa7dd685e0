"""What both files take to run, measured one after the other on the same cores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.domain.job import LatencySpec
from app.domain.report import LatencyFigures
from app.domain.task import TURN_SECONDS
from workers.compression.figures import Counts
from workers.compression.footprint import measure_footprint
from workers.compression.harness import Feed, fixed_batch, open_session
from workers.compression.latency import SECONDS, Limits, PairedLatency, measure_pair
from workers.compression.operator_profile import cache_bytes, profile_operators, streamed_bytes_per_second
from workers.compression.report import Profile

MEASURING_SECONDS = 600.0
"""What timing may take of the turn; profiles and processes for memory take the rest."""
_EACH = 1.5 * SECONDS
"""One batch size with one number of threads, once."""
Sizes = tuple[int | None, int | None]


@dataclass(frozen=True)
class Profiling:
    """``pairs`` hold the raw samples; ``unmeasured`` says what was asked for and could not be measured so."""

    baseline: Profile
    compressed: Profile
    pairs: tuple[PairedLatency, ...]
    streamed_bytes_per_second: float
    cache_bytes: int | None
    unmeasured: tuple[str, ...]


def profile_files(
    files: tuple[Path, Path],
    counts: tuple[Counts, Counts],
    packed: Sizes,
    latency: LatencySpec,
    rows: Feed,
    *,
    turn_seconds: float = TURN_SECONDS,
) -> Profiling:
    """Measure baseline and result; ``packed`` are their bytes once compressed, where that was measured.

    Whoever has the turn to measure loses it behind ``turn_seconds``: figures that took longer are marked noisy, as
    another measurement may have run beside them.
    """
    began = time.monotonic()
    planned = len(latency.batch_sizes) * len(latency.thread_counts) * _EACH
    limits = Limits(began + MEASURING_SECONDS - planned, began + MEASURING_SECONDS)
    pairs: list[PairedLatency] = []
    for threads in latency.thread_counts:
        if not pairs or time.monotonic() < limits.begin_until:
            pairs += measure_pair(*files, latency.batch_sizes, threads, rows, limits=limits)
    first, fixed = pairs[0], fixed_batch(open_session(files[0], 1))
    sides = []
    for path, counted, bytes_, side in zip(files, counts, packed, ("baseline", "compressed"), strict=True):
        footprint = measure_footprint(path, rows, first.batch_size, first.threads)
        figures: tuple[LatencyFigures, ...] = tuple(getattr(pair, side) for pair in pairs)
        operators = profile_operators(path, rows, first.batch_size, first.threads, figures[0].p50_ms)
        sides.append(Profile(path, counted, figures, footprint, bytes_, operators))
    streamed, unmeasured = streamed_bytes_per_second(), _unmeasured(latency, pairs, fixed)
    if time.monotonic() - began > turn_seconds:
        pairs, sides = [_doubtful(pair) for pair in pairs], [_doubtful_side(side) for side in sides]
        unmeasured = (*unmeasured, _TOO_LONG.format(turn_seconds / 60))
    return Profiling(sides[0], sides[1], tuple(pairs), streamed, cache_bytes(), unmeasured)


_TOO_LONG = (
    "Measuring took longer than the {:.0f} minutes that one job has a host's measurements to itself: another may have"
    " run beside it, and every timing is marked noisy."
)


def _doubtful(pair: PairedLatency) -> PairedLatency:
    before, after = (side.model_copy(update={"noisy": True}) for side in (pair.baseline, pair.compressed))
    return replace(pair, baseline=before, compressed=after)


def _doubtful_side(side: Profile) -> Profile:
    figures = tuple(timed.model_copy(update={"noisy": True}) for timed in side.latency)
    return replace(side, latency=figures, operators=side.operators and replace(side.operators, noisy=True))


def _unmeasured(latency: LatencySpec, pairs: Sequence[PairedLatency], fixed: int | None) -> tuple[str, ...]:
    found = []
    missed = sorted(set(latency.batch_sizes) - {fixed})
    if fixed is not None and missed:
        found.append(f"The network takes batches of {fixed} alone: batches of {_listed(missed)} were not measured.")
    asked = len(latency.thread_counts) * (1 if fixed is not None else len(latency.batch_sizes))
    if len(pairs) < asked:
        found.append(
            f"Of {asked} combinations of batch size and threads {len(pairs)} were measured: the others found no room in"
            f" {MEASURING_SECONDS / 60:.0f} minutes."
        )
    counts = {pair.threads for pair in pairs}
    missed = sorted(count for count in latency.thread_counts if count > max(counts))
    if len(pairs) == asked and missed:
        found.append(f"This worker has {max(counts)} cores: {_listed(missed)} threads were measured as so many.")
    return tuple(found)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
