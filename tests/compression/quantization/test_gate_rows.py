import numpy as np
import pytest
import torch

from app.domain.job import Objective
from app.domain.steps.quantize import QuantizeSpec
from tests.compression.quantization.networks import Residual, digits, make_network
from workers.compression.datasets import Dataset, Split
from workers.compression.quantization.gate_rows import choose_rows
from workers.compression.step import Context

SPEC = QuantizeSpec(method="quantize", samples=50, gate_rows=200)


@pytest.fixture(scope="module")
def network():
    return make_network(Residual(), (1, 8, 8))


def split(start, count, *, labelled):
    order = np.arange(start, start + count)
    return Split((digits(),), np.arange(len(digits())) % 10 if labelled else None, order)


@pytest.mark.parametrize(
    ("calibration", "train", "kind", "first", "count", "metric"),
    [
        ((300, True), (300, True), "calibration rows that no range was found on", 50, 200, "accuracy"),
        ((120, True), (300, True), "train rows", 1000, 200, "accuracy"),
        ((300, False), (300, True), "train rows", 1000, 200, "accuracy"),
        ((300, False), None, "calibration rows that no range was found on", 50, 200, "agreement"),
        ((40, False), None, "the calibration rows themselves", 0, 40, "agreement"),
    ],
)
def test_rows_come_from_where_they_tell_most(network, tmp_path, calibration, train, kind, first, count, metric):
    splits = {"calibration": split(0, calibration[0], labelled=calibration[1])}
    if train:
        splits["train"] = split(1000, train[0], labelled=train[1])
    splits["validation"] = split(1500, 200, labelled=True)
    data = Dataset(splits, (torch.float32,))
    context = Context(
        network, data, 0, torch.device("cpu"), lambda _: None, tmp_path, objective=Objective(max_drop=0.1)
    )  # fmt: skip
    rows = choose_rows(network, context, SPEC, observed=SPEC.samples)
    assert rows.as_json() == {"rows": count, "rows_from": kind, "metric": metric}
    read = np.concatenate([inputs[0].numpy() for inputs in rows.batches])
    np.testing.assert_array_equal(read, digits()[first : first + count])
    if metric == "accuracy":
        np.testing.assert_array_equal(rows.labels, np.arange(first, first + count) % 10)
