from dataclasses import replace

import pytest
import torch

from app.domain.errors import CheckFailed, NoChange
from workers.compression.checks import PROMISES, check_files, check_step
from workers.compression.formats import onnx, pt2


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


def test_the_signature_must_stay(digits_network):
    renamed = digits_network.signature.model_copy(update={"outputs": ()})
    with pytest.raises(CheckFailed, match="signature"):
        check_step("finetune", digits_network, replace(changed(digits_network, 0.5), signature=renamed))


def test_both_files_must_decide_alike(tmp_path, digits_network, digits_data):
    onnx.save(digits_network, tmp_path / "model.onnx")
    pt2.save(digits_network, tmp_path / "model.pt2")
    assert check_files(tmp_path / "model.onnx", tmp_path / "model.pt2", digits_data, threads=1) == 1
    pt2.save(changed(digits_network, 0.5), tmp_path / "other.pt2")
    with pytest.raises(CheckFailed, match="agree"):
        check_files(tmp_path / "model.onnx", tmp_path / "other.pt2", digits_data, threads=1)
