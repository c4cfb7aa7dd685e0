from dataclasses import replace

import pytest

from app.domain.report import LatencyFigures, OperatorFigures
from workers.compression.explanation import Facts, explain
from workers.compression.operator_profile import OperatorProfile

LATENCY = LatencyFigures(
    runtime="onnxruntime-cpu", batch_size=1, threads=1, mean_ms=1, p25_ms=1, p50_ms=1, p75_ms=1, p90_ms=1, p95_ms=1,
    p99_ms=1, throughput_per_second=1000, runs=500, spread=0.02, noisy=False,
)  # fmt: skip


def profiled(bytes_read=1000, **times_ms):
    """Give a profile whose operators take these times."""
    whole = sum(times_ms.values())
    operators = tuple(
        OperatorFigures(operator=kind, nodes=1, time_ms=time, time_share=time / whole, weight_bytes=0)
        for kind, time in times_ms.items()
    )
    return OperatorProfile(operators, whole, len(operators), bytes_read, noisy=False)


QUIET = Facts(
    before=LATENCY,
    latency=LATENCY,
    before_profile=profiled(Conv=1.9),
    profile=profiled(QLinearConv=0.95),
    faster=True,
    speed=2.0,
    macs_ratio=1.0,
    streamed_bytes_per_second=1e10,
    cache_bytes=4_000_000,
    on_integers=True,
    has_vnni=True,
)
NOISY = LATENCY.model_copy(update={"noisy": True})
READING = profiled(8_000_000, MatMul=0.95)


def test_nothing_is_said_where_nothing_holds_a_file_back():
    assert list(explain(QUIET)) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"latency": NOISY}, "noisy"),
        ({"profile": profiled(QLinearConv=0.4)}, "At least 60% of a run is spent outside all operators"),
        ({"profile": profiled(QLinearConv=0.8, DequantizeLinear=0.2)}, "fuses with nothing"),
        ({"has_vnni": False}, "no VNNI"),
        # 8 MB in a millisecond are 8 of the 10 GB/s that there are.
        ({"profile": READING}, "80% of the speed that memory gives"),
        ({"profile": replace(QUIET.profile, noisy=True)}, "no reason rests on them"),
        ({"before_profile": replace(QUIET.profile, noisy=True)}, "no reason rests on them"),
    ],
)
def test_each_reason_is_told_alone(changed, words):
    (reason,) = explain(replace(QUIET, **changed))
    assert words in reason


@pytest.mark.parametrize(
    "changed",
    [
        {"cache_bytes": 32_000_000},  # it all lies in a cache
        {"cache_bytes": None},
        {"streamed_bytes_per_second": 1e9},  # eight times as fast as memory: it does not come from there
        {"streamed_bytes_per_second": 1e12},
        {"latency": LATENCY.model_copy(update={"threads": 2})},  # the speed of memory is that of one thread
        # A sixth of the bytes, and not a bit faster for it.
        {"before_profile": profiled(50_000_000, MatMul=0.95), "speed": 0.96},
    ],
)
def test_memory_is_blamed_only_where_it_can_be_to_blame(changed):
    assert list(explain(replace(QUIET, **{"profile": READING} | changed))) == []


@pytest.mark.parametrize(
    ("before", "after", "macs_ratio", "words"),
    [
        (
            profiled(Gemm=0.0056),
            profiled(MatMulNBits=0.0195),
            1.0,
            ["MatMulNBits takes longer than what it stands for: 0.0195 ms a run against 0.00560 ms of Gemm in"],
        ),
        (profiled(Conv=0.5), profiled(Conv=0.8), 1.0, ["Conv takes longer: 0.800 ms a run, 0.500 ms in the baseline."]),
        (profiled(Conv=0.95), profiled(Conv=0.7), 1.0, ["All operators together take less, 0.700 ms a run, 0.950 ms"]),
        (profiled(Conv=0.9), profiled(Conv=0.9), 3.6, ["3.60 times fewer multiplications and its operators take no"]),
        (
            profiled(Conv=0.9),
            profiled(QLinearConv=0.88),
            1.0,
            ["QLinearConv takes 0.880 ms a run, which is about what is saved of Conv: 0.900 ms."],
        ),
        # Whatever became of them, no operator took longer, and the least saved is of one that is gone.
        (
            profiled(Conv=0.95, ReorderOutput=0.05),
            profiled(Conv=0.8),
            1.0,
            ["All operators together take less, 0.800 ms a run, 1.00 ms"],
        ),
        # Nothing took long enough to be measured.
        (profiled(), profiled(), 1.0, ["At least 100% of a run is spent outside all operators"]),
    ],
)
def test_why_a_file_is_not_faster_is_told_by_its_operators(before, after, macs_ratio, words):
    facts = replace(
        QUIET,
        before=LATENCY.model_copy(update={"p50_ms": before.kernels_ms * 1.05}),
        latency=LATENCY.model_copy(update={"p50_ms": before.kernels_ms * 1.05 if after.nodes == 1 else 1}),
        before_profile=before,
        profile=after,
        faster=False,
        speed=0.8,
        macs_ratio=macs_ratio,
    )
    reasons = list(explain(facts))
    assert len(reasons) == len(words)
    for reason, begin in zip(reasons, words, strict=True):
        assert begin in reason


def test_a_network_in_float_needs_no_vnni():
    assert list(explain(replace(QUIET, on_integers=False, has_vnni=False))) == []
