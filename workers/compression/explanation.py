"""Why a file is as fast as it is, in plain words, from what was measured of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.domain.report import LatencyFigures
from workers.compression.harness import WIDEST_SPREAD
from workers.compression.operator_profile import MOST_APART, OperatorProfile
from workers.compression.pages.words import milliseconds

OUTSIDE = 0.3
"""Share of a run outside all operators above which small networks gain little from less arithmetic."""
CONVERTING = 0.1
"""Share of the operators' time above which quantizing and dequantizing is worth a word."""
STREAMING, TOO_FAST = 0.5, 1.2
"""Shares of the memory's own speed between which reading the weights, not computing, bounds a run: what is read yet
faster does not come from memory."""
TELLING = 1.05
"""Ratio of times from which one operator is said to take longer than another."""
NARROWER = 1.2
"""Ratio of multiplications or bytes from which a file is said to have fewer of them."""
_CONVERTERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True)
class Facts:
    """What is known of both files; ``faster`` is the verdict, ``cache_bytes`` the largest cache, null where unknown."""

    before: LatencyFigures
    latency: LatencyFigures
    before_profile: OperatorProfile
    profile: OperatorProfile
    faster: bool
    speed: float
    macs_ratio: float
    streamed_bytes_per_second: float
    cache_bytes: int | None
    on_integers: bool
    has_vnni: bool


def explain(facts: Facts) -> Iterator[str]:
    """Give what holds the file back, or makes its figures doubtful; nothing where nothing does."""
    if facts.latency.noisy:
        yield (
            f"The timing is noisy: quartiles stayed more than {WIDEST_SPREAD:.0%} of the median apart when it was"
            " measured again, as something else ran on the same cores, or the measurement lost its turn. Measure again"
            " on a quiet machine."
        )
    elif facts.before_profile.noisy or facts.profile.noisy:
        yield (
            f"Operators' times stayed more than {MOST_APART:.0%} from those of whole runs when measured again:"
            " no reason rests on them."
        )
    else:
        yield from _from_operators(facts)
    if facts.on_integers and not facts.has_vnni:
        yield "This processor has no VNNI: products of eight-bit integers gain much less on it than on one that has."


def _from_operators(facts: Facts) -> Iterator[str]:
    if not facts.faster:
        yield from _why_not_faster(facts)
    outside = facts.profile.outside(facts.latency.p50_ms)
    if outside > OUTSIDE:
        yield (
            f"At least {outside:.0%} of a run is spent outside all operators, on dispatch and the runtime itself: less"
            f" arithmetic buys little at batch {facts.latency.batch_size}, and a larger batch may."
        )
    converting = sum(found.time_share for found in facts.profile.operators if found.operator in _CONVERTERS)
    if converting > CONVERTING:
        yield (
            f"{converting:.0%} of the operators' time goes into quantizing and dequantizing that the runtime fuses with"
            " nothing."
        )
    yield from _memory(facts)


def _why_not_faster(facts: Facts) -> Iterator[str]:
    """Name the operator that takes longer or, where none does, what the time hangs on instead."""
    before, after = facts.before_profile, facts.profile
    took, takes = (
        {found.operator: found.time_ms for found in profile.operators if found.time_ms} for profile in (before, after)
    )
    changes = {kind: takes.get(kind, 0.0) - took.get(kind, 0.0) for kind in took.keys() | takes.keys()}
    if not takes:
        return  # nothing took long enough to be measured
    # What takes longer is there; what is saved may be gone.
    grown, fallen = max(takes, key=changes.__getitem__), min(changes, key=changes.__getitem__)
    sums = f"{milliseconds(after.kernels_ms)} a run, {milliseconds(before.kernels_ms)} in the baseline"
    if grown in took and takes[grown] > TELLING * took[grown]:
        yield f"{grown} takes longer: {milliseconds(takes[grown])} a run, {milliseconds(took[grown])} in the baseline."
    elif grown not in took and changes[fallen] < 0 and changes[grown] > -changes[fallen] * TELLING:
        yield (
            f"{grown} takes longer than what it stands for: {milliseconds(takes[grown])} a run against"
            f" {milliseconds(-changes[fallen])} of {fallen} in the baseline."
        )
    elif grown not in took and changes[fallen] < 0 and changes[grown] > -changes[fallen] / NARROWER:
        yield (
            f"{grown} takes {milliseconds(takes[grown])} a run, which is about what is saved of {fallen}:"
            f" {milliseconds(-changes[fallen])}."
        )
    elif before.kernels_ms > TELLING * after.kernels_ms:
        yield (
            f"All operators together take less, {sums}, but a whole run does not: {milliseconds(facts.latency.p50_ms)}"
            f" and {milliseconds(facts.before.p50_ms)}. What is left is dispatch and the runtime itself."
        )
    if facts.macs_ratio > NARROWER and after.kernels_ms * TELLING > before.kernels_ms:
        yield (
            f"A run has {facts.macs_ratio:.2f} times fewer multiplications and its operators take no less time, {sums}:"
            " at these widths their time does not hang on how much they multiply."
        )


def _memory(facts: Facts) -> Iterator[str]:
    """Say that memory bounds a run, where more is read than any cache holds, about as fast as memory gives it.

    The speed of memory was measured from one thread, and holds for one.
    """
    read = facts.profile.bytes_read
    if facts.cache_bytes is None or read <= facts.cache_bytes or facts.latency.threads != 1:
        return
    if facts.before_profile.bytes_read > NARROWER * read and facts.speed < NARROWER:
        return  # fewer bytes bought nothing
    share = read / (facts.latency.p50_ms / 1000) / facts.streamed_bytes_per_second
    if STREAMING < share < TOO_FAST:
        yield (
            f"A run reads {read / 1e6:.0f} MB of stored values, more than the processor's caches hold"
            f" ({facts.cache_bytes / 1e6:.0f} MB), at {share:.0%} of the speed that memory gives one thread: it is"
            " bound by memory, and gains by fewer bytes, not by less arithmetic."
        )
