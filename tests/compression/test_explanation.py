from dataclasses import replace

import pytest

from app.domain.report import LatencyFigures, OperatorFigures
from workers.compression.explanation import Facts, explain

LATENCY = LatencyFigures(
    runtime="onnxruntime-cpu", batch_size=1, threads=1, mean_ms=1, p25_ms=1, p50_ms=1, p75_ms=1, p90_ms=1, p95_ms=1,
    p99_ms=1, throughput_per_second=1000, runs=500, spread=0.02, noisy=False,
)  # fmt: skip
QUIET = Facts(
    latency=LATENCY,
    operators=(OperatorFigures(operator="QLinearConv", nodes=3, time_ms=0.9, time_share=0.95, weight_bytes=1000),),
    outside=0.05,
    weight_bytes=1000,
    streamed_bytes_per_second=1e10,
    on_integers=True,
    has_vnni=True,
)
CONVERTER = OperatorFigures(operator="DequantizeLinear", nodes=3, time_ms=0.2, time_share=0.2, weight_bytes=0)


def test_nothing_is_said_where_nothing_holds_a_file_back():
    assert list(explain(QUIET)) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"latency": LATENCY.model_copy(update={"noisy": True})}, "noisy"),
        ({"outside": 0.6}, "60% of a run is spent outside all operators"),
        ({"operators": (*QUIET.operators, CONVERTER)}, "fuses with nothing"),
        ({"has_vnni": False}, "no VNNI"),
        # 8 MB in a millisecond are 8 of the 10 GB/s that there are.
        ({"weight_bytes": 8_000_000}, "80% of the speed that memory gives"),
    ],
)
def test_each_reason_is_told_alone(changed, words):
    (reason,) = explain(replace(QUIET, **changed))
    assert words in reason


def test_a_network_in_float_needs_no_vnni():
    assert list(explain(replace(QUIET, on_integers=False, has_vnni=False))) == []
