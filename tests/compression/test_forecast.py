import pytest
from pydantic import TypeAdapter

from app.domain.job import LatencySpec
from app.domain.recipe import Recipe
from workers.compression.forecast import PROFILING_SECONDS, TIMED_SECONDS, Baseline, forecast

RECIPE = TypeAdapter(Recipe).validate_python([{"method": "prune"}, {"method": "finetune", "epochs": 3}])


def profiling(seconds_a_row, **latency):
    """Give what timing is expected to take, beside what comes with it."""
    parts = forecast(RECIPE, LatencySpec(**latency), Baseline(1.0, seconds_a_row, 1))
    assert len(parts) == len(RECIPE) + 4
    assert [part.epochs for part in parts[:2]] == [0, 3]
    return parts[-2].seconds - PROFILING_SECONDS


def test_timing_takes_as_long_as_its_runs_or_its_limit_for_each_batch_and_number_of_threads():
    once = profiling(1e-4)
    assert 0 < once < TIMED_SECONDS
    assert abs(profiling(1e-4, batch_sizes=(1, 2)) - 3 * once) < 1e-9
    assert abs(profiling(1e-4, threads=(1, 2)) - 2 * once) < 1e-9
    assert profiling(10.0) == TIMED_SECONDS


def test_what_is_pruned_before_an_epoch_makes_it_shorter():
    steps = [
        {"method": "prune", "amount": 0.3},
        {"method": "finetune", "epochs": 2},
        {"method": "prune", "granularity": "weight", "amount": 0.9},
        {"method": "prune", "macs_ratio": 2, "rounds": 3, "recovery_epochs": 1},
        {"method": "distill", "student": {"width": 0.5, "depth": 0.5}},
        {"method": "quantize", "scheme": "qat", "epochs": 1},
    ]
    parts = forecast(TypeAdapter(Recipe).validate_python(steps), LatencySpec(), Baseline(1.0, 1.0, 1))
    assert [part.size for part in parts[: len(steps)]] == pytest.approx([0.49, 0.49, 0.49, 0.245, 0.125, 0.125])
