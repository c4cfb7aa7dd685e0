"""Why a file is as fast as it is, in plain words, from what was measured of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.domain.report import LatencyFigures, OperatorFigures
from workers.compression.harness import WIDEST_SPREAD

OUTSIDE = 0.3
"""Share of a run outside all operators above which small networks gain little from less arithmetic."""
CONVERTING = 0.1
"""Share of the operators' time above which quantizing and dequantizing is worth a word."""
STREAMING = 0.5
"""Share of the memory's own speed above which reading the weights, not computing, bounds a run."""
_CONVERTERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True)
class Facts:
    """What is known of the compressed file; ``outside`` is the share of a run outside all operators."""

    latency: LatencyFigures
    operators: tuple[OperatorFigures, ...]
    outside: float
    weight_bytes: int
    streamed_bytes_per_second: float
    on_integers: bool
    has_vnni: bool


def explain(facts: Facts) -> Iterator[str]:
    """Give what holds the file back, or makes its figures doubtful; nothing where nothing does."""
    if facts.latency.noisy:
        yield (
            f"The timing is noisy: quartiles stayed more than {WIDEST_SPREAD:.0%} of the median apart when it was"
            " measured again, as something else ran on the same cores. Measure again on a quiet machine."
        )
    if facts.outside > OUTSIDE:
        yield (
            f"{facts.outside:.0%} of a run is spent outside all operators, on dispatch and the runtime itself: less"
            f" arithmetic buys little at batch {facts.latency.batch_size}, and a larger batch may."
        )
    converting = sum(found.time_share for found in facts.operators if found.operator in _CONVERTERS)
    if converting > CONVERTING:
        yield (
            f"{converting:.0%} of the operators' time goes into quantizing and dequantizing that the runtime fuses with"
            " nothing."
        )
    if facts.on_integers and not facts.has_vnni:
        yield "This processor has no VNNI: products of eight-bit integers gain much less on it than on one that has."
    read = facts.weight_bytes / (facts.latency.p50_ms / 1000) / facts.streamed_bytes_per_second
    if read > STREAMING:
        yield (
            f"A run reads its weights at {min(read, 1):.0%} of the speed that memory gives: it is bound by memory, and"
            " gains by fewer bytes, not by less arithmetic."
        )
