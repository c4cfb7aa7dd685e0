import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from app.domain.errors import NoChange, NothingToQuantize, RecipeOrder, ValidationFailed
from tests.compression.quantization.networks import make_network
from tests.compression.quantization.schemes import (
    make_text,
    operators,
    run_onnx,
    run_torch,
    spec,
    text_context,
    text_rows,
    write,
)
from workers.compression.checks import check_step
from workers.compression.formats import onnx as onnx_format
from workers.compression.quantization import quantize, weight_only
from workers.compression.quantization.stored import PackedLinear
from workers.compression.quantization.swapping import stored_bytes
from workers.compression.quantization.written import check_packed

LAYERS = {"embedding", "query", "key", "product", "mixed", "head"}


@pytest.fixture(scope="module")
def network():
    return make_text()


@pytest.fixture(scope="module", params=[("int4", 32, True), ("int4", 64, False), ("int8", 32, False)])
def written(request, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    weights, group_size, symmetric = request.param
    step = spec("weight_only", weights=weights, group_size=group_size, symmetric=symmetric)
    return folder, step, *write(network, step, text_context(network, folder), folder)


def test_every_layer_reaches_the_kernel_for_packed_weights(written):
    folder, _, result, _ = written
    found = operators(folder / "model.onnx")
    assert (found.count("MatMulNBits"), found.count("GatherBlockQuantized")) == (5, 1)
    assert not {"MatMul", "Gemm", "Gather", "Cast", "BitwiseAnd"} & set(found)
    assert check_packed(folder / "model.onnx")["MatMulNBits"] == 5
    assert {layer["name"] for layer in result.details["layers"]} == LAYERS


def test_both_files_compute_the_same(written, network):
    folder, step, result, loaded = written
    rows = text_rows(200)
    ours = run_torch(loaded, rows)
    np.testing.assert_array_equal(ours, run_torch(result.network, rows))
    theirs = run_onnx(folder / "model.onnx", rows)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(theirs.argmax(1), ours.argmax(1))
    reference = run_torch(network, rows)
    off = np.linalg.norm(ours - reference) / np.linalg.norm(reference)
    assert 0 < off < {"int4": 0.25, "int8": 0.02}[step.weights]


def test_weights_are_stored_as_packed_bytes(written, network):
    folder, step, result, loaded = written
    assert loaded.quantized
    floats = {value.numel() for value in loaded.module.state_dict().values() if value.dtype == torch.float32}
    assert max(floats) <= 150, "scales and biases alone are floats"
    share = {"int4": 0.5, "int8": 0.7}[step.weights]
    assert stored_bytes(loaded.module) < share * stored_bytes(network.module)
    assert result.details["bytes_after"] == stored_bytes(result.network.module)
    onnx_format.save(network, folder / "float.onnx")
    assert (folder / "model.onnx").stat().st_size < (folder / "float.onnx").stat().st_size
    kinds = {tensor.data_type for tensor in onnx.load(folder / "model.onnx").graph.initializer if len(tensor.dims) == 3}
    assert kinds == {onnx.TensorProto.UINT8}


def test_each_layer_is_told_with_bits_and_sqnr(written):
    _, step, result, _ = written
    bits = {"int4": 4, "int8": 8}[step.weights]
    for layer in result.details["layers"]:
        assert layer["bits"] == bits
        assert 5 < layer["sqnr_db"] < 80
        assert layer["range"][0] < layer["range"][1]
        assert 0 <= layer["saturated"] < 0.2
    assert check_step("quantize", make_text(), result.network) is None


def test_the_packing_is_that_of_the_runtime_whatever_the_size(tmp_path):
    """One layer, one input at a time: what comes out are the weights as the kernel reads them."""
    torch.manual_seed(1)
    for inputs, bits, symmetric in ((33, 4, True), (96, 4, False), (40, 8, False)):
        layer = nn.Linear(inputs, 3)
        packed = weight_only.makers(bits, 32, symmetric=symmetric)[nn.Linear](layer, None)
        network = make_network(nn.Sequential(layer), (inputs,))
        network.module.set_submodule("0", packed)
        path = tmp_path / f"{inputs}.onnx"
        onnx_format.save(network, path)
        read = run_onnx(path, np.eye(inputs, dtype=np.float32)) - layer.bias.detach().numpy()
        ours = packed.restore(packed.stored_weight, packed.scales, packed.zero_points)
        np.testing.assert_allclose(read.T, ours.numpy(), rtol=1e-6, atol=1e-6)


def test_excluded_layers_stay_in_float_and_the_callers_network_as_it_was(network, tmp_path):
    before, graph = copy.deepcopy(network.module.state_dict()), str(network.module.graph)
    result = quantize.run(network, spec("weight_only", exclude=["embedding", "he?d"]), text_context(network, tmp_path))
    assert {layer["name"] for layer in result.details["layers"]} == LAYERS - {"embedding", "head"}
    assert isinstance(result.network.module.get_submodule("head"), nn.Linear)
    assert isinstance(result.network.module.get_submodule("query"), PackedLinear)
    assert str(network.module.graph) == graph
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


def test_there_may_be_no_calibration_rows(network, tmp_path):
    result = quantize.run(network, spec("weight_only"), text_context(network, tmp_path, rows=text_rows(0)))
    assert all(layer["sqnr_db"] is None for layer in result.details["layers"])


def test_what_cannot_be_packed_is_refused(network, tmp_path):
    convolution = make_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), (1, 4, 4))
    context = text_context(network, tmp_path, rows=text_rows(0))
    with pytest.raises(NothingToQuantize, match=r"0 \(Conv2d\)"):
        quantize.run(convolution, spec("weight_only"), context)
    with pytest.raises(NothingToQuantize, match="head"):
        quantize.run(network, spec("weight_only", exclude=["*"]), context)
    small = make_network(nn.Linear(3, 4), (3,))
    with pytest.raises(NoChange, match="fewer bytes"):
        quantize.run(small, spec("weight_only", weights="int8"), context)
    result = quantize.run(network, spec("weight_only", exclude=["[!h]*"]), context)
    with pytest.raises(RecipeOrder, match="already"):
        quantize.run(result.network, spec("weight_only"), context)


def test_layers_are_chosen_and_have_bits_of_their_own(network, tmp_path):
    overrides = {"que*": {"bits": 8}, "linear": {"bits": 4}, "embedding": {"keep_float": True}}
    step = spec("weight_only", weights="int8", include=["linear", "embedding"], exclude=["head"], overrides=overrides)
    result, loaded = write(network, step, text_context(network, tmp_path), tmp_path)
    assert {layer["name"]: layer["bits"] for layer in result.details["layers"]} == {
        "query": 8, "key": 4, "product": 4, "mixed": 4,
    }  # fmt: skip
    assert result.details["floats"] == {"embedding": "left out", "head": "left out"}
    rows = text_rows(100)
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", rows), run_torch(loaded, rows), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValidationFailed, match=r"include: .*'conv\*'.*query \(linear\)"):
        quantize.run(network, spec("weight_only", include=["conv*"]), text_context(network, tmp_path))
