"""What the parts of a job will take, told from what measuring the uploaded network took.

Epochs of training are told by the training itself. The factors are from jobs on a small network of digits and on
reference network F, where writing the uploaded network's file took 0.9 and 2.4 seconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.domain.job import LatencySpec
from app.domain.recipe import Step
from app.domain.steps.distill import DerivedStudent, DistillSpec
from app.domain.steps.prune import PruneSpec
from workers.compression.latency import SECONDS
from workers.compression.progress import Expected

EXPORTING, PRUNING, QUANTIZING, KEEPING = 2.4, 0.1, 0.8, 0.6
"""Times what writing the uploaded network's file took; keeping is of a candidate, behind a step that trains."""
PACKAGING_SECONDS = 0.1
PROFILING_SECONDS = 3.0
"""Two processes that measure memory and loading, two runs under the profiler, and how fast memory is read."""
TIMED_RUNS, TIMED_SECONDS = 2400, 1.5 * SECONDS
"""For each batch size and number of threads, so many runs of the uploaded file or so long."""


@dataclass(frozen=True)
class Baseline:
    """Seconds that the uploaded network took to be written to a file, and to be run there on so many rows."""

    saving: float
    predicting: float
    rows: int


def forecast(recipe: Sequence[Step], latency: LatencySpec, baseline: Baseline) -> list[Expected]:
    """Say what to expect of each step and of exporting, evaluating, profiling and packaging."""
    row = baseline.predicting / baseline.rows
    timing = sum(min(TIMED_SECONDS, TIMED_RUNS * row * size) for size in latency.batch_sizes)
    return [
        *_of_steps(recipe, baseline),
        Expected(EXPORTING * baseline.saving),
        Expected(baseline.predicting),
        Expected(PROFILING_SECONDS + timing * len(latency.thread_counts)),
        Expected(PACKAGING_SECONDS),
    ]


def _of_steps(recipe: Sequence[Step], baseline: Baseline) -> Iterator[Expected]:
    size = 1.0
    for step in recipe:
        size = _size_behind(step, size)
        share = {"prune": PRUNING, "quantize": QUANTIZING}.get(step.method, 0.0)
        if step.trained_epochs and step is not recipe[-1]:
            share += KEEPING
        yield Expected(share * baseline.saving, step.trained_epochs, size)


def _size_behind(step: Step, size: float) -> float:
    """Give the multiplications that a step leaves, as a share of the uploaded network's, from the share before it.

    Of a student that is another model nothing is known here: it is taken to be of the uploaded network's size.
    """
    if isinstance(step, PruneSpec):
        return size * step.macs_left()
    if isinstance(step, DistillSpec) and isinstance(step.student, DerivedStudent):
        return (step.student.width or 1.0) ** 2 * (step.student.depth or 1.0)
    return 1.0 if isinstance(step, DistillSpec) and step.student is not None else size
