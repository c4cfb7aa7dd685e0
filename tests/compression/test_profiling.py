import numpy as np
import pytest
from torch import nn

from app.domain.job import LatencySpec
from app.domain.task import TURN_SECONDS
from tests.compression.quantization.networks import make_network
from workers import turn
from workers.compression import latency, profiling
from workers.compression.figures import Counts
from workers.compression.formats import onnx
from workers.compression.profiling import profile_files

COUNTS = (Counts(1, 1, 1), Counts(1, 1, 1))
ROWS = {"input": np.random.default_rng(0).standard_normal((4, 64), np.float32)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiling")
    for name, width in (("baseline", 256), ("model", 32)):
        network = make_network(nn.Sequential(nn.Linear(64, width), nn.Linear(width, 8)), (64,))
        onnx.save(network, folder / f"{name}.onnx")
    return folder / "baseline.onnx", folder / "model.onnx"


@pytest.fixture
def quick(monkeypatch):
    """Time each pair for as short as may be."""
    measure = latency.harness.measure
    monkeypatch.setattr(
        latency.harness,
        "measure",
        lambda paths, threads, rows, size, _, until: measure(paths, threads, rows, size, 0.0, until),
    )


def profile(files, spec, **more):
    return profile_files(files, COUNTS, (None, None), spec, ROWS, **more)


@pytest.mark.usefixtures("quick")
def test_a_measurement_that_outlasts_its_turn_marks_all_its_figures(files):
    found = profile(files, LatencySpec(), turn_seconds=0.0)
    assert all(pair.noisy and pair.compressed.noisy for pair in found.pairs)
    for side in (found.baseline, found.compressed):
        assert side.operators.noisy
        assert all(timed.noisy for timed in side.latency)
    assert "longer than the 0 minutes" in found.unmeasured[-1]


@pytest.mark.usefixtures("quick")
def test_what_finds_no_room_in_the_turn_is_said_and_not_measured(files, monkeypatch):
    monkeypatch.setattr(profiling, "MEASURING_SECONDS", 0.0)
    found = profile(files, LatencySpec(batch_sizes=(1, 2, 4), threads=(1, 256)))
    assert [(pair.batch_size, pair.threads) for pair in found.pairs] == [(1, 1)]
    assert found.unmeasured == (
        "Of 6 combinations of batch size and threads 1 were measured: the others found no room in 0 minutes.",
    )


def test_the_longest_measurement_that_can_be_asked_for_fits_its_turn():
    asked = LatencySpec(batch_sizes=(1, 2, 4, 8, 16, 32, 64, 128), threads=(1, 2, 4, 8))
    once = len(asked.batch_sizes) * len(asked.thread_counts) * profiling._EACH
    assert once < profiling.MEASURING_SECONDS < TURN_SECONDS < turn.MOST_SECONDS
