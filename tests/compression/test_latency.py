import os

import numpy as np
import pytest
import torch
from torch import nn

from app.domain.errors import CheckFailed
from tests.compression.quantization.networks import make_network
from workers.compression import harness
from workers.compression.footprint import measure_footprint
from workers.compression.formats import onnx as onnx_format
from workers.compression.latency import TRIES, measure_pair

MEGABYTE = 2**20


def write_linear(path, width, batch=None):
    onnx_format.save(make_network(nn.Sequential(nn.Linear(64, width), nn.Linear(width, 8)), (64,), batch=batch), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    return write_linear(folder / "wide.onnx", 100_000), write_linear(folder / "narrow.onnx", 32)


def test_the_smaller_file_is_faster_in_every_figure(files):
    allowed = os.sched_getaffinity(0)
    measured = measure_pair(*files, (1, 4), 1, 0, seconds=0.5)
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
        assert figures.throughput_per_second == pytest.approx(1000 * pair.batch_size / figures.mean_ms)
        assert figures.threads == pair.threads == 1
    assert os.sched_getaffinity(0) == allowed


def test_time_is_limited_but_for_the_fewest_pairs(files):
    (pair,) = measure_pair(*files, (1,), 1, 0, seconds=0.0)
    assert pair.baseline.runs == harness.MIN_PAIRS


def test_a_noisy_pair_is_measured_again_and_marked_if_it_stays_so(files, monkeypatch):
    tries = []
    measure = harness.time_pair

    def count(*given):
        tries.append(given)
        return measure(*given)

    monkeypatch.setattr(harness, "time_pair", count)
    monkeypatch.setattr("workers.compression.latency.WIDEST_SPREAD", -1.0)
    (pair,) = measure_pair(*files, (1,), 1, 0, seconds=0.0)
    assert len(tries) == TRIES
    assert pair.noisy
    assert pair.compressed.noisy
    monkeypatch.setattr("workers.compression.latency.WIDEST_SPREAD", 1e9)
    (pair,) = measure_pair(*files, (1,), 1, 0, seconds=0.0)
    assert len(tries) == TRIES + 1
    assert not pair.noisy


def test_the_spread_is_that_of_the_quartiles():
    assert harness.summarize(np.arange(1.0, 102.0), 1)["spread"] == pytest.approx(50 / 51)


def test_a_fixed_batch_is_the_only_one_measured(tmp_path):
    path = write_linear(tmp_path / "fixed.onnx", 16, batch=3)
    (pair,) = measure_pair(path, path, (1, 8), 1, 0, seconds=0.1)
    assert pair.batch_size == pair.baseline.batch_size == 3


def test_threads_beyond_the_cores_are_not_pretended(files):
    (pair,) = measure_pair(*files, (1,), 256, 0, seconds=0.0)
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


def test_the_interval_covers_a_known_ratio_and_repeats_by_seed():
    generator = np.random.default_rng(3)
    compressed = generator.normal(2, 0.2, 400)
    baseline = compressed * 3 + generator.normal(0, 0.1, 400)
    value, (low, high) = harness.ratio_of_medians(baseline, compressed, 7)
    assert low < 3 < high
    # Drawing the two sides apart would lose that they move together, and give an interval several times as wide.
    assert high - low < 0.08
    assert harness.ratio_of_medians(baseline, compressed, 7) == (value, (low, high))
    assert harness.ratio_of_medians(baseline, compressed, 8) != (value, (low, high))


def test_rows_follow_the_files_inputs(files):
    session = harness.open_session(files[0], 1)
    rows = harness.make_rows(session, 5)
    assert {name: (value.shape, value.dtype) for name, value in rows.items()} == {"input": ((4, 64), np.float32)}
    assert harness.make_feed(session, rows, 6)["input"].shape == (6, 64)
    again = harness.make_rows(session, 5)["input"]
    assert np.array_equal(rows["input"], again)
    assert not np.array_equal(again, harness.make_rows(session, 6)["input"])


def test_peak_memory_holds_the_weights(files):
    footprints = [measure_footprint(path, 1, 1) for path in files]
    wide, narrow = (found.peak_memory_bytes for found in footprints)
    weights = files[0].stat().st_size
    assert weights > 25 * MEGABYTE
    assert 20 * MEGABYTE < narrow < 400 * MEGABYTE
    assert wide - narrow > 0.9 * weights
    assert footprints[0].load_ms > footprints[1].load_ms > 0


def test_peak_memory_of_no_network_is_an_error(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(CheckFailed, match=r"broken\.onnx"):
        measure_footprint(tmp_path / "broken.onnx", 1, 1)


def test_torch_keeps_its_threads(files):
    before = torch.get_num_threads()
    measure_pair(*files, (1,), 1, 0, seconds=0.0)
    assert torch.get_num_threads() == before
