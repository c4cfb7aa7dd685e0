"""What both files take to run, measured one after the other on the same cores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.job import LatencySpec
from workers.compression.figures import Counts
from workers.compression.footprint import measure_footprint
from workers.compression.latency import PairedLatency, measure_pair
from workers.compression.operator_profile import profile_operators, streamed_bytes_per_second
from workers.compression.report import Profile

Sizes = tuple[int | None, int | None]


@dataclass(frozen=True)
class Profiling:
    """``pairs`` hold the raw samples; ``unmeasured`` says what was asked for and could not be measured so."""

    baseline: Profile
    compressed: Profile
    pairs: tuple[PairedLatency, ...]
    streamed_bytes_per_second: float
    unmeasured: tuple[str, ...]


def profile_files(
    files: tuple[Path, Path], counts: tuple[Counts, Counts], packed: Sizes, latency: LatencySpec, seed: int
) -> Profiling:
    """Measure baseline and result; ``packed`` are their bytes once compressed, where that was measured."""
    pairs = tuple(
        pair for threads in latency.thread_counts for pair in measure_pair(*files, latency.batch_sizes, threads, seed)
    )
    first = pairs[0]
    sides = []
    for path, counted, bytes_, side in zip(files, counts, packed, ("baseline", "compressed"), strict=True):
        footprint = measure_footprint(path, first.batch_size, first.threads)
        operators = profile_operators(path, first.batch_size, first.threads, seed)
        figures = tuple(getattr(pair, side) for pair in pairs)
        sides.append(Profile(path, counted, figures, footprint, bytes_, operators))
    return Profiling(sides[0], sides[1], pairs, streamed_bytes_per_second(), _unmeasured(latency, pairs))


def _unmeasured(latency: LatencySpec, pairs: Sequence[PairedLatency]) -> tuple[str, ...]:
    sizes, counts = {pair.batch_size for pair in pairs}, {pair.threads for pair in pairs}
    found = []
    if missed := sorted(set(latency.batch_sizes) - sizes):
        found.append(
            f"The network takes batches of {max(sizes)} alone: batches of {_listed(missed)} were not measured."
        )
    if missed := sorted(set(latency.thread_counts) - counts):
        found.append(f"This worker has {max(counts)} cores: {_listed(missed)} threads were measured as so many.")
    return tuple(found)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
