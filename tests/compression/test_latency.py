import os
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, export

from app.domain.errors import CheckFailed
from tests.compression.quantization.networks import make_network
from workers.compression import harness
from workers.compression.datasets import Dataset, Split
from workers.compression.footprint import measure_footprint
from workers.compression.formats import onnx as onnx_format
from workers.compression.harness import TRIES
from workers.compression.latency import Limits, draw_rows, measure_pair, rows_of
from workers.compression.lifting import lift

MEGABYTE = 2**20
ROWS = {"input": np.random.default_rng(0).standard_normal((4, 64), np.float32)}


def write_linear(path, width, batch=None):
    onnx_format.save(make_network(nn.Sequential(nn.Linear(64, width), nn.Linear(width, 8)), (64,), batch=batch), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    return write_linear(folder / "wide.onnx", 100_000), write_linear(folder / "narrow.onnx", 32)


def test_the_smaller_file_is_faster_in_every_figure(files):
    allowed = os.sched_getaffinity(0)
    measured = measure_pair(*files, (1, 4), 1, ROWS, seconds=0.5)
    assert [pair.batch_size for pair in measured] == [1, 4]
    for pair in measured:
        assert len(pair.baseline_ms) == len(pair.compressed_ms) == pair.baseline.runs == pair.compressed.runs
        assert pair.ratio.ci95[0] <= pair.ratio.value <= pair.ratio.ci95[1]
        assert pair.ratio.ci95[0] > 2
        assert pair.ratio.value == pytest.approx(np.median(pair.baseline_ms) / np.median(pair.compressed_ms))
        assert pair.compressed.p50_ms < pair.baseline.p50_ms
        figures = pair.baseline
        assert figures.p50_ms <= figures.p90_ms <= figures.p95_ms <= figures.p99_ms
        assert figures.p95_ms == pytest.approx(np.percentile(pair.baseline_ms, 95))
        assert figures.throughput_per_second == pytest.approx(1000 * pair.batch_size / figures.p50_ms)
        assert figures.threads == pair.threads == 1
    assert os.sched_getaffinity(0) == allowed


def test_time_is_limited_but_for_the_fewest_pairs(files):
    (pair,) = measure_pair(*files, (1,), 1, ROWS, seconds=0.0)
    assert pair.baseline.runs == harness.MIN_PAIRS


def test_a_noisy_pair_is_measured_again_and_marked_if_it_stays_so(files, monkeypatch):
    tries = []
    measure = harness.time_rounds

    def count(*given):
        tries.append(given)
        return measure(*given)

    monkeypatch.setattr(harness, "time_rounds", count)
    monkeypatch.setattr(harness, "WIDEST_SPREAD", -1.0)
    (pair,) = measure_pair(*files, (1,), 1, ROWS, seconds=0.0)
    assert len(tries) == TRIES
    assert pair.noisy
    assert pair.compressed.noisy
    measure_pair(*files, (1,), 1, ROWS, seconds=0.0, limits=Limits(again_until=0.0))
    assert len(tries) == TRIES + 1  # no time is left for another
    monkeypatch.setattr(harness, "WIDEST_SPREAD", 1e9)
    (pair,) = measure_pair(*files, (1,), 1, ROWS, seconds=0.0)
    assert len(tries) == TRIES + 2
    assert not pair.noisy


def test_behind_the_limit_no_further_batch_size_is_begun(files):
    measured = measure_pair(*files, (1, 2, 4), 1, ROWS, seconds=0.0, limits=Limits(begin_until=0.0))
    assert [pair.batch_size for pair in measured] == [1]


def test_the_spread_is_that_of_the_quartiles():
    assert harness.summarize(np.arange(1.0, 102.0), 1)["spread"] == pytest.approx(50 / 51)


def test_a_fixed_batch_is_the_only_one_measured(tmp_path):
    path = write_linear(tmp_path / "fixed.onnx", 16, batch=3)
    (pair,) = measure_pair(path, path, (1, 8), 1, ROWS, seconds=0.1)
    assert pair.batch_size == pair.baseline.batch_size == 3


def test_threads_beyond_the_cores_are_not_pretended(files):
    (pair,) = measure_pair(*files, (1,), 256, ROWS, seconds=0.0)
    assert pair.threads == len(os.sched_getaffinity(0))


def test_cores_are_given_back_after_a_failure():
    allowed = os.sched_getaffinity(0)

    def fail():
        with harness.pinned(1) as threads:
            assert (threads, len(os.sched_getaffinity(0))) == (1, 1)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert os.sched_getaffinity(0) == allowed


def rounds_of(ratios, spread=0.02, pairs=60):
    """Give rounds whose ratios differ from load to load, as memory's layout makes them."""
    generator = np.random.default_rng(3)
    rounds = []
    for ratio in ratios:
        compressed = generator.normal(2, spread, pairs)
        rounds.append((generator.normal(2 * ratio, spread, pairs), compressed))
    return tuple(rounds)


def test_the_interval_covers_what_differs_between_loads():
    value, (low, high) = harness.ratio_of_medians(rounds_of([1.04, 1.09, 0.99, 1.05, 1.01]))
    assert value == pytest.approx(1.036, abs=0.01)
    # Student's t with 4 degrees of freedom of the ratios themselves: 1.036 ± 2.776·0.0385/√5. Drawing pairs alone
    # would give a tenth of that width, and tell the file to be faster.
    assert (low, high) == pytest.approx((0.988, 1.084), abs=0.006)
    steady, (low, high) = harness.ratio_of_medians(rounds_of([3.0] * 5))
    assert steady == pytest.approx(3, abs=0.02)
    assert 2.9 < low < steady < high < 3.1


def test_the_interval_over_rounds_holds_the_ratio_of_all_runs():
    generator = np.random.default_rng(0)
    for _ in range(50):
        value, (low, high) = harness.ratio_of_medians(rounds_of(generator.lognormal(0, 0.1, 5), pairs=4))
        assert low <= value <= high


def test_both_files_are_loaded_anew_for_each_round(files):
    (pair,) = measure_pair(*files, (1,), 1, ROWS, seconds=0.0)
    assert len(pair.rounds) == harness.ROUNDS
    assert sum(len(samples) for samples, _ in pair.rounds) == pair.baseline.runs


def test_throughput_is_deaf_to_a_stall():
    samples = np.full(500, 0.013)
    samples[7] = 22.5
    figures = harness.summarize(samples, 4)
    assert figures["mean_ms"] > 4 * figures["p99_ms"]
    assert figures["throughput_per_second"] == pytest.approx(4 * 1000 / 0.013)


def test_drawn_rows_follow_the_files_inputs(files):
    session = harness.open_session(files[0], 1)
    rows = draw_rows(files[0], 5)
    assert {name: (value.shape, value.dtype) for name, value in rows.items()} == {"input": ((4, 64), np.float32)}
    assert harness.make_feed(session, rows, 6)["input"].shape == (6, 64)
    assert np.array_equal(rows["input"], draw_rows(files[0], 5)["input"])


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory):
    """Write a network whose rows may be of any length, and give it with a data set of rows of 24."""
    path = tmp_path_factory.mktemp("tokens") / "net.onnx"
    module = nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
    shapes = ({0: Dim("batch"), 1: Dim("length", max=512)},)
    network = lift(export(module, (torch.ones(2, 8, dtype=torch.int64),), dynamic_shapes=shapes))
    onnx_format.save(network, path)
    tokens = np.random.default_rng(0).integers(0, 50, (6, 24))
    split = Split((tokens,), None, np.array([4, 2, 5, 0, 1]))
    return path, Dataset({"validation": split}, (torch.int64,)), tokens


def test_rows_are_those_that_judge_at_their_own_length(tokens_file):
    path, data, tokens = tokens_file
    (rows,) = rows_of(path, data).values()
    assert np.array_equal(rows, tokens[[4, 2, 5, 0]])
    with pytest.raises(ValueError, match="no size of their own"):
        draw_rows(path, 0)
    session = harness.open_session(path, 1)
    assert session.run(None, harness.make_feed(session, rows_of(path, data), 3))[0].shape == (3, 24, 2)


def test_a_system_that_pins_nothing_is_measured_all_the_same(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_getaffinity")
    with harness.pinned(1) as threads:
        assert threads == 1


def test_peak_memory_holds_the_weights(files):
    footprints = [measure_footprint(path, ROWS, 1, 1) for path in files]
    wide, narrow = (found.peak_memory_bytes for found in footprints)
    weights = files[0].stat().st_size
    assert weights > 25 * MEGABYTE
    assert 20 * MEGABYTE < narrow < 400 * MEGABYTE
    assert wide - narrow > 0.9 * weights
    assert footprints[0].load_ms > footprints[1].load_ms > 0


def test_peak_memory_of_no_network_is_an_error(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(CheckFailed, match=r"broken\.onnx"):
        measure_footprint(tmp_path / "broken.onnx", ROWS, 1, 1)


def test_torch_keeps_its_threads(files):
    before = torch.get_num_threads()
    measure_pair(*files, (1,), 1, ROWS, seconds=0.0)
    assert torch.get_num_threads() == before
