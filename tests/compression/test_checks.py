from dataclasses import replace

import numpy as np
import pytest
import torch

from app.domain.errors import CheckFailed, NoChange
from tests.compression.quantization.networks import make_network
from workers.compression.checks import PROMISES, check_files, check_step, compare_outputs
from workers.compression.formats import onnx, pt2
from workers.compression.tasks import Classification


@pytest.mark.parametrize("method", PROMISES)
def test_a_step_that_changed_nothing_is_an_error(digits_network, method):
    with pytest.raises(NoChange):
        check_step(method, digits_network, digits_network.clone())


def changed(network, value):
    other = network.clone()
    with torch.no_grad():
        other.module.fc.weight.fill_(value)
    return other


def test_outputs_must_stay_finite(digits_network):
    check_step("finetune", digits_network, changed(digits_network, 0.5))
    with pytest.raises(CheckFailed, match="finite"):
        check_step("finetune", digits_network, changed(digits_network, float("inf")))


def test_the_output_shape_must_stay(digits_network):
    other = changed(digits_network, 0.5)
    other.module.fc = torch.nn.Linear(32, 9)
    with pytest.raises(CheckFailed, match="shape"):
        check_step("finetune", digits_network, other)


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 4)

    def forward(self, x):
        return self.first(x), self.second(x)


def test_every_output_is_looked_at():
    network = make_network(Two(), (3,))
    wider, endless = network.clone(), network.clone()
    wider.module.second = torch.nn.Linear(3, 5)
    with pytest.raises(CheckFailed, match=r"shape from \[2, 4\] to \[2, 5\]"):
        check_step("finetune", network, wider)
    with torch.no_grad():
        endless.module.second.bias[1] = float("inf")
    with pytest.raises(CheckFailed, match="finite"):
        check_step("finetune", network, endless)


def test_the_signature_must_stay(digits_network):
    renamed = digits_network.signature.model_copy(update={"outputs": ()})
    with pytest.raises(CheckFailed, match="signature"):
        check_step("finetune", digits_network, replace(changed(digits_network, 0.5), signature=renamed))


def test_both_files_must_decide_alike(tmp_path, digits_network, digits_data):
    onnx.save(digits_network, tmp_path / "model.onnx")
    pt2.save(digits_network, tmp_path / "model.pt2")
    agreement = check_files(tmp_path / "model.onnx", tmp_path / "model.pt2", digits_data, threads=1)
    assert (agreement.rows, agreement.equal_predictions) == (digits_data.rows("validation"), 1)
    assert agreement.widest_tie == 0
    assert agreement.relative_difference < 1e-5
    pt2.save(changed(digits_network, 0.5), tmp_path / "other.pt2")
    with pytest.raises(CheckFailed, match="agree"):
        check_files(tmp_path / "model.onnx", tmp_path / "other.pt2", digits_data, threads=1)


def test_outputs_are_compared_by_decision_and_by_distance():
    ours = np.array([[2.0, 0.0], [0.5, 0.4], [-1.0, 1.0]], np.float32)
    theirs = np.array([[2.0, 0.1], [0.4, 0.6], [-1.0, 1.0]], np.float32)
    figures = compare_outputs(ours, theirs, Classification())
    assert (figures.rows, figures.equal_predictions) == (3, pytest.approx(2 / 3))
    assert figures.largest_difference == pytest.approx(0.2)
    assert figures.relative_difference == pytest.approx(np.sqrt(0.01 + 0.01 + 0.04) / np.sqrt(4 + 0.25 + 0.16 + 2))
    assert figures.widest_tie == pytest.approx(0.1 / ours.std(), rel=1e-5)


def test_a_decision_that_was_no_tie_must_be_the_same(tmp_path, digits_network, digits_data, monkeypatch):
    onnx.save(digits_network, tmp_path / "model.onnx")
    moved = digits_network.clone()
    with torch.no_grad():
        moved.module.fc.bias[3] += 0.4 * float(moved.module.fc.weight.std()) * 100
    pt2.save(moved, tmp_path / "moved.pt2")
    monkeypatch.setattr("workers.compression.checks.MIN_AGREEMENT", 0.0)
    with pytest.raises(CheckFailed, match="standard deviations"):
        check_files(tmp_path / "model.onnx", tmp_path / "moved.pt2", digits_data, threads=1)
