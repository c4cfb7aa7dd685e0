from dataclasses import replace

import numpy as np
import pytest
import torch

from app.domain.errors import CheckFailed, NoChange, RecipeOrder
from app.domain.steps.quantize import QuantizeSpec
from tests.compression.quantization.networks import digits, make_context
from tests.compression.quantization.schemes import make_text, spec
from tests.compression.test_pipeline import run as compress
from workers.compression.admission import admit
from workers.compression.formats import onnx as onnx_format
from workers.compression.formats import pt2
from workers.compression.inspection import inspect_model
from workers.compression.quantization import quantize
from workers.compression.report import LIMITS, PACKED

SCHEMES = QuantizeSpec.model_json_schema()["properties"]["scheme"]["enum"]
RECIPES = [{"scheme": "cast"}, {"scheme": "dynamic"}, {"scheme": "qat", "weights": "int4", "epochs": 1}]


def test_every_scheme_has_its_code_and_its_check():
    assert list(quantize.SCHEMES) == list(quantize.FILE_CHECKS) == SCHEMES


@pytest.fixture(scope="module")
def float_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    onnx_format.save(make_text(), path)
    return path


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_file_that_is_not_of_its_scheme_is_found(float_file, scheme):
    with pytest.raises(CheckFailed):
        quantize.check_file(float_file, float_file, spec(scheme))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda step: step["scheme"])
def test_a_job_of_each_scheme_ends_with_its_report(digits_network, digits_data, tmp_path, recipe):
    report, _, _ = compress(digits_network, digits_data, tmp_path / "out", [{"method": "quantize"} | recipe])
    step = spec(**recipe)
    bits = {layer.name: layer.bits for layer in report.layers}
    assert bits["fc"] == {"cast": 16, "dynamic": 8, "qat": 4}[step.scheme]
    assert bits["conv1"] == (16 if step.scheme == "cast" else 32)
    assert next(layer for layer in report.layers if layer.name == "fc").sqnr_db > 10
    assert report.compressed.size_bytes < report.baseline.size_bytes
    assert report.compressed.metrics["accuracy"].value > 0.9
    assert report.verdict.reasons[-1] == LIMITS.get(step.scheme, PACKED)
    assert report.data.train == (1437 if step.scheme == "qat" else 0)
    assert report.data.calibration == 0

    model = tmp_path / "out" / "model.onnx"
    with pytest.raises(NoChange, match="bytes"):
        quantize.check_file(model, model, step)

    uploaded = tmp_path / "out" / "model.pt2"
    admit(uploaded, "pt2")
    facts = inspect_model(uploaded, "pt2")
    assert facts.quantized
    assert not facts.trainable
    network = pt2.load(uploaded)
    context = replace(make_context(network, digits()[:8], tmp_path), data=digits_data)
    with pytest.raises(RecipeOrder, match="already"):
        quantize.run(network, step, context)
    rows = torch.from_numpy(np.array(digits_data.splits["validation"].inputs[0][:64]))
    onnx_format.save(network, tmp_path / "again.onnx")
    assert network.module(rows).isfinite().all()
