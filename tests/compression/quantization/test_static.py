import copy
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from app.domain.errors import CheckFailed, InvalidDataset, NothingToQuantize, RecipeOrder
from app.domain.steps.quantize import QuantizeSpec
from tests.compression.quantization.networks import Mobile, Residual, digits, make_context, make_network
from tests.compression.quantization.schemes import run_onnx, run_torch
from workers.compression.environment import has_vnni
from workers.compression.formats import onnx as onnx_format
from workers.compression.formats import pt2
from workers.compression.quantization import quantize, static
from workers.compression.quantization.fusion import check_fused, fused_operators
from workers.compression.quantization.swapping import stored_bytes


def spec(**fields):
    return QuantizeSpec(method="quantize", **fields)


@pytest.fixture(scope="module")
def rows():
    return digits()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return make_network(Residual(), (1, 8, 8))


@pytest.fixture(scope="module")
def written(network, rows, tmp_path_factory):
    """The float files and, twice over, the quantized ones."""
    folder = tmp_path_factory.mktemp("written")
    onnx_format.save(network, folder / "float.onnx")
    pt2.save(network, folder / "float.pt2")
    results = []
    for attempt in ("first", "second"):
        (folder / attempt).mkdir()
        result = static.run(network, spec(samples=96), make_context(network, rows, folder))
        onnx_format.save(result.network, folder / attempt / "model.onnx")
        pt2.save(result.network, folder / attempt / "model.pt2")
        results.append(result)
    return folder, results[0]


def stored_weights(module):
    return [value for value in module.state_dict().values() if value.dtype == torch.int8]


def test_onnx_runtime_fuses_every_layer(written):
    folder, _ = written
    operators = check_fused(folder / "first/model.onnx")
    assert operators["QLinearConv"] == 4
    assert operators["QLinearAdd"] == 1
    assert operators["QLinearGlobalAveragePool"] == 1
    assert operators["QGemm"] == 1
    assert operators["QuantizeLinear"] == 1, "the input alone is quantized on its own"
    assert not {"Conv", "FusedConv", "Gemm", "Relu", "Add", "DequantizeLinear"} & set(operators)


def test_every_operator_with_an_integer_kernel_uses_it(rows, tmp_path):
    network = make_network(Mobile(), (1, 8, 8))
    result = static.run(network, spec(samples=64), make_context(network, rows, tmp_path))
    onnx_format.save(result.network, tmp_path / "model.onnx")
    integer = {name: count for name, count in fused_operators(tmp_path / "model.onnx").items() if name[0] == "Q"}
    assert integer == Counter(
        QuantizeLinear=1, QLinearConv=5, QLinearGlobalAveragePool=2, QLinearSigmoid=1, QLinearMul=1,
        QLinearConcat=1, QLinearAveragePool=1, QGemm=2,
    )  # fmt: skip


def test_a_float_layer_behind_its_own_dequantize_is_found(tmp_path):
    weight = onnx.numpy_helper.from_array(np.ones((2, 1, 3, 3), np.int8), "w")
    scale = onnx.numpy_helper.from_array(np.float32(0.1), "s")
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        onnx.helper.make_node("Conv", ["x", "v"], ["y"], name="lonely"),
    ]
    values = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [weight, scale])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "lone.onnx")
    with pytest.raises(CheckFailed, match="float"):
        check_fused(tmp_path / "lone.onnx")


def test_a_float_file_is_no_quantized_one(written):
    with pytest.raises(CheckFailed, match="no layer"):
        check_fused(written[0] / "float.onnx")


def test_weights_are_stored_as_bytes(written):
    folder, result = written
    model = onnx.load(folder / "first/model.onnx")
    stored = {t.data_type for t in model.graph.initializer if len(t.dims) > 1}
    assert stored == {onnx.TensorProto.INT8}
    assert (folder / "first/model.onnx").stat().st_size < 0.5 * (folder / "float.onnx").stat().st_size
    reloaded, reference = (pt2.load(folder / name).module for name in ("first/model.pt2", "float.pt2"))
    assert stored_bytes(reloaded) < 0.4 * stored_bytes(reference)
    floats = [v.numel() for v in result.network.module.state_dict().values() if v.dtype == torch.float32]
    assert max(floats) <= 32, "scales alone are left as floats"


def test_both_files_compute_the_same(written, network, rows):
    folder, result = written
    from_onnx = run_onnx(folder / "first/model.onnx", rows)
    loaded = pt2.load(folder / "first/model.pt2")
    from_pt2, from_step, reference = (run_torch(made, rows) for made in (loaded, result.network, network))
    assert loaded.quantized
    np.testing.assert_array_equal(from_pt2, from_step)
    assert (from_onnx.argmax(1) == from_pt2.argmax(1)).mean() > 0.995
    # Kernels round some halves the other way: a few values of the last pool move by one quantum.
    assert np.linalg.norm(from_onnx - from_pt2) < 0.02 * np.linalg.norm(from_pt2)
    assert 0 < np.linalg.norm(from_onnx - reference) < 0.1 * np.linalg.norm(reference)


def test_the_same_step_gives_the_same_bytes(written):
    folder, _ = written
    for name in ("model.onnx", "model.pt2"):
        assert (folder / "first" / name).read_bytes() == (folder / "second" / name).read_bytes()


def test_details_tell_what_was_done(written):
    details = written[1].details
    assert details["pairs"] > 15
    assert details["layers_quantized"] == 5
    assert details["calibration_rows"] == 96
    assert {layer["name"] for layer in details["layers"]} == {"stem", "conv1", "shortcut", "conv2", "classifier"}
    for layer in details["layers"]:
        assert layer["bits"] == 8
        assert layer["range"][0] < layer["range"][1]
        assert 20 < layer["sqnr_db"] < 70


def test_the_callers_network_stays_as_it_was(network, rows, tmp_path):
    before = copy.deepcopy(network.module.state_dict())
    graph = str(network.module.graph)
    static.run(network, spec(samples=8), make_context(network, rows, tmp_path))
    assert str(network.module.graph) == graph
    for name, value in network.module.state_dict().items():
        assert torch.equal(value, before[name])


def test_reduced_range_keeps_weights_within_64(network, rows, tmp_path):
    largest = {}
    for choice in ("on", "off", "auto"):
        result = static.run(network, spec(samples=8, reduce_range=choice), make_context(network, rows, tmp_path))
        largest[choice] = max(int(value.int().abs().max()) for value in stored_weights(result.network.module))
        assert result.details["reduce_range"] is (largest[choice] == 64)
    assert (largest["on"], largest["off"]) == (64, 127)
    assert largest["auto"] == (127 if has_vnni() else 64)


def test_observers_differ(network, rows, tmp_path):
    results = [
        static.run(network, spec(samples=64, observer=name), make_context(network, rows, tmp_path)).network.module
        for name in ("histogram", "minmax")
    ]
    x = torch.from_numpy(rows[:16])
    with torch.no_grad():
        assert not torch.equal(results[0](x), results[1](x))


def test_only_the_rows_asked_for_are_observed(network, rows, tmp_path):
    spoiled = rows.copy()
    spoiled[40:] = np.nan
    result = static.run(network, spec(samples=40), make_context(network, spoiled, tmp_path))
    assert result.details["calibration_rows"] == 40


def test_a_fixed_batch_is_filled_up(rows, tmp_path):
    network = make_network(Residual(), (1, 8, 8), batch=3)
    result = static.run(network, spec(samples=4), make_context(network, rows, tmp_path))
    onnx_format.save(result.network, tmp_path / "model.onnx")
    assert run_onnx(tmp_path / "model.onnx", rows[:3]).shape == (3, 10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_rows_must_be_finite(network, rows, tmp_path, value):
    spoiled = rows.copy()
    spoiled[5, 0, 0, 0] = value
    with pytest.raises(InvalidDataset, match="NaN or infinite"):
        static.run(network, spec(), make_context(network, spoiled, tmp_path))


def test_there_must_be_calibration_rows(network, rows, tmp_path):
    with pytest.raises(InvalidDataset, match="no calibration rows"):
        static.run(network, spec(), make_context(network, rows[:0], tmp_path))


def test_a_quantized_network_is_not_quantized_again(written, rows, tmp_path):
    _, result = written
    with pytest.raises(RecipeOrder):
        quantize.run(result.network, spec(), make_context(result.network, rows, tmp_path))


def test_a_network_without_layers_has_nothing_to_quantize(rows, tmp_path):
    network = make_network(nn.Sequential(nn.ReLU(), nn.Flatten()), (1, 8, 8))
    with pytest.raises(NothingToQuantize):
        static.run(network, spec(), make_context(network, rows, tmp_path))
