from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from app.domain.errors import CheckFailed, NothingToQuantize
from app.domain.job import Objective
from tests.compression.quantization.networks import make_network
from tests.compression.quantization.schemes import (
    LENGTH,
    make_text,
    operators,
    run_onnx,
    run_torch,
    spec,
    text_context,
    text_rows,
    write,
)
from tests.compression.quantization.test_groups import half_even
from workers.compression.datasets import Dataset, Split
from workers.compression.formats import onnx as onnx_format
from workers.compression.quantization import quantize
from workers.compression.quantization.stored import DynamicLinear
from workers.compression.quantization.written import check_dynamic
from workers.compression.step import Context

F32 = np.float32
VALUES = st.one_of(st.floats(-50, 50, width=32), st.sampled_from([0.0, 0.5, 127.5, 255.0]))


@pytest.fixture(scope="module")
def network():
    return make_text()


@pytest.fixture(scope="module")
def written(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    return folder, *write(network, spec("dynamic", reduce_range="off"), text_context(network, folder), folder)


def slow(weight, bias, x, bound):
    """Compute in plain integers, by the formulas of the standard."""
    scales = [F32(max(abs(row))) / F32(bound) if max(abs(row)) > 0 else F32(1) for row in weight]
    stored = [[half_even(float(F32(w) / s)) for w in row] for row, s in zip(weight, scales, strict=True)]
    low, high = min(F32(x.min()), F32(0)), max(F32(x.max()), F32(0))
    scale = (high - low) / F32(255) if high > low else F32(1)
    zero_point = half_even(min(max(float(-low / scale), 0), 255))
    integers = [[min(max(half_even(float(F32(v) / scale)) + zero_point, 0), 255) for v in row] for row in x]
    sums = [[sum((q - zero_point) * w for q, w in zip(row, ws, strict=True)) for ws in stored] for row in integers]
    return stored, np.array(sums, F32) * (scale * np.array(scales, F32)) + bias


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(np.float32, (3, 6), elements=VALUES),
    arrays.arrays(np.float32, (2, 6), elements=VALUES),
    st.sampled_from([64, 127]),
)
def test_integers_are_those_of_the_reference(weight, x, bound):
    bias = np.array([1.0, -2.0, 0.5], F32)
    layer = DynamicLinear(torch.from_numpy(weight), torch.from_numpy(bias), bound)
    stored, expected = slow(weight, bias, x, bound)
    assert layer.stored_weight.t().tolist() == stored
    np.testing.assert_allclose(layer(torch.from_numpy(x)).numpy(), expected, rtol=1e-6, atol=1e-5)


def test_each_layer_is_one_integer_kernel(written):
    folder, result, _ = written
    found = check_dynamic(folder / "model.onnx")
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 5
    assert found["DynamicQuantizeLinear"] == 1, "two layers that read the same value share it"
    assert found["GatherBlockQuantized"] == 1
    assert not {"MatMul", "Gemm", "MatMulInteger"} & set(found)
    assert result.details["layers_quantized"] == 6
    assert {layer["bits"] for layer in result.details["layers"]} == {8}


def test_both_files_compute_the_same(written, network):
    folder, result, loaded = written
    rows = text_rows(200)
    ours, theirs = run_torch(loaded, rows), run_onnx(folder / "model.onnx", rows)
    assert loaded.quantized
    np.testing.assert_array_equal(ours, run_torch(result.network, rows))
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)
    assert (theirs.argmax(1) == ours.argmax(1)).all()
    reference = run_torch(network, rows)
    assert 0 < np.linalg.norm(theirs - reference) < 0.05 * np.linalg.norm(reference)


def test_weights_are_stored_as_bytes(written):
    folder, _, _ = written
    kinds = {tensor.data_type for tensor in onnx.load(folder / "model.onnx").graph.initializer if len(tensor.dims) == 2}
    assert onnx.TensorProto.INT8 in kinds
    assert "DynamicQuantizeLinear" in operators(folder / "model.onnx")


def test_reduced_range_keeps_weights_within_64(network, tmp_path):
    largest = {}
    for choice in ("on", "off"):
        result = quantize.run(network, spec("dynamic", reduce_range=choice), text_context(network, tmp_path))
        layer = result.network.module.get_submodule("query")
        largest[choice] = int(layer.stored_weight.int().abs().max())
        assert result.details["reduce_range"] is (choice == "on")
    assert largest == {"on": 64, "off": 127}


def test_excluded_layers_and_convolutions_stay_in_float(network, tmp_path):
    context = text_context(network, tmp_path)
    result = quantize.run(network, spec("dynamic", exclude=["query", "product", "mix*"]), context)
    assert {layer["name"] for layer in result.details["layers"]} == {"embedding", "key", "head"}
    result = quantize.run(network, spec("dynamic", exclude=["linear"]), context)
    assert [layer["name"] for layer in result.details["layers"]] == ["embedding"]
    convolution = make_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), (1, 4, 4))
    with pytest.raises(NothingToQuantize, match="Conv2d"):
        quantize.run(convolution, spec("dynamic"), context)


def test_a_float_file_is_no_dynamic_one(network, tmp_path):
    onnx_format.save(network, tmp_path / "float.onnx")
    with pytest.raises(CheckFailed, match="no layer"):
        check_dynamic(tmp_path / "float.onnx")


def test_layers_go_back_until_the_objective_holds(network, tmp_path):
    """Weights that nothing reads stretch one layer's scales until the others round to zero."""
    broken = network.clone()
    with torch.no_grad():
        broken.module.get_submodule("embedding").weight[:, 0] = 0.0
        broken.module.get_submodule("key").weight[:, 0] = 1000.0
        broken.module.product *= 30
    rows = text_rows(200)
    labels = run_torch(broken, rows).argmax(1)
    assert len(set(labels)) > 1
    context = replace(text_context(broken, tmp_path, rows, labels), objective=Objective(max_drop=0.05))
    result, loaded = write(broken, spec("dynamic", exclude=["head"], batch_size=200), context, tmp_path)
    gate = result.details["gate"]
    assert gate["drop_of_all"] > 0.05 >= gate["drop"]
    assert (gate["held"], gate["complete"], gate["floats"]) == (True, True, ["key"])
    assert (gate["rows"], gate["metric"]) == (200, "accuracy")
    assert gate["ranking"][0]["name"] == "key"
    assert {entry["name"]: entry["cost"] for entry in gate["ranking"]}["key"] == LENGTH * 44 * 70
    assert result.details["floats"] == {"head": "left out", "key": "objective"}
    assert {layer["name"] for layer in result.details["layers"]} == {"embedding", "query", "product", "mixed"}
    # What was judged is what comes out.
    assert (run_torch(loaded, rows).argmax(1) != labels).mean() == pytest.approx(gate["drop"])
    assert check_dynamic(tmp_path / "model.onnx")["MatMul"] == 1


def test_without_an_objective_nothing_is_judged(written):
    assert "gate" not in written[1].details


def test_where_only_rows_that_judge_are_left_no_layer_goes_back(network, tmp_path):
    split = Split((text_rows(),), np.zeros(64, np.int64), np.arange(64))
    events = []
    context = Context(
        network,
        Dataset({"validation": split}, (torch.int64,)),
        0,
        torch.device("cpu"),
        events.append,
        tmp_path,
        objective=Objective(max_drop=0.05),
    )
    result, _ = write(network, spec("dynamic"), context, tmp_path)
    assert "gate" not in result.details
    assert result.details["layers_quantized"] == 6
    assert ["no calibration or train rows" in event.data["message"] for event in events] == [True]


class Words(nn.Module):
    """An embedding and a linear layer of one width."""

    def __init__(self, width):
        super().__init__()
        self.embedding, self.head = nn.Embedding(400, width), nn.Linear(width, 10)

    def forward(self, ids):
        return self.head(self.embedding(ids).mean(1))


@pytest.mark.parametrize(("width", "row"), [(32, 36), (64, 68), (96, 108), (200, 252), (384, 396)])
def test_rows_of_embeddings_take_the_fewest_bytes(tmp_path, width, row):
    network = make_network(Words(width), (LENGTH,), dtype=torch.int64)
    result, _ = write(network, spec("dynamic"), text_context(network, tmp_path), tmp_path)
    layer = result.network.module.get_submodule("embedding")
    assert sum(value.nbytes for value in layer.buffers()) == 400 * row
    assert result.details["layers_too_small"] == []
    rows = text_rows()
    assert np.abs(run_onnx(tmp_path / "model.onnx", rows) - run_torch(result.network, rows)).max() < 1e-4
