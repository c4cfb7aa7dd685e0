import numpy as np
import onnx
import pytest
import torch

from app.domain.errors import CheckFailed, NonFiniteWeights
from tests.compression.quantization.networks import Mobile, digits, make_context, make_network
from tests.compression.quantization.schemes import run_onnx, run_torch, spec, write
from workers.compression.formats import onnx as onnx_format
from workers.compression.quantization import quantize
from workers.compression.quantization.swapping import stored_bytes
from workers.compression.quantization.written import check_cast


@pytest.fixture(scope="module")
def network():
    return make_network(Mobile(), (1, 8, 8))


@pytest.mark.parametrize(
    ("weights", "kind", "error"),
    [("fp16", onnx.TensorProto.FLOAT16, 1e-3), ("bf16", onnx.TensorProto.BFLOAT16, 1e-2)],
)
def test_weights_are_stored_in_sixteen_bits_and_nothing_else_changes(network, tmp_path, weights, kind, error):
    rows = digits()[:300]
    result, loaded = write(network, spec("cast", weights=weights), make_context(network, rows, tmp_path), tmp_path)
    stored = onnx.load(tmp_path / "model.onnx").graph.initializer
    assert {tensor.data_type for tensor in stored if len(tensor.dims) > 1} == {kind}
    onnx_format.save(network, tmp_path / "float.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < (tmp_path / "float.onnx").stat().st_size
    assert stored_bytes(loaded.module) < 0.6 * stored_bytes(network.module)

    ours, theirs = run_torch(loaded, rows), run_onnx(tmp_path / "model.onnx", rows)
    assert loaded.quantized
    np.testing.assert_array_equal(ours, run_torch(result.network, rows))
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    assert theirs.dtype == np.float32
    reference = run_torch(network, rows)
    assert 0 < np.linalg.norm(ours - reference) < error * np.linalg.norm(reference)

    operators = check_cast(tmp_path / "model.onnx")
    assert operators["Cast"] == 0, "the runtime unpacks the weights when it loads them"
    assert {(layer["bits"], layer["sqnr_db"] > 35) for layer in result.details["layers"]} == {(16, True)}
    assert len(result.details["layers"]) == 7


def test_a_weight_beyond_the_format_is_named(network, tmp_path):
    huge = network.clone()
    with torch.no_grad():
        huge.module.get_submodule("hidden").weight[0, 0] = 70000.0
    context = make_context(huge, digits()[:8], tmp_path)
    with pytest.raises(NonFiniteWeights, match="hidden"):
        quantize.run(huge, spec("cast"), context)
    result = quantize.run(huge, spec("cast", exclude=["hidden"]), context)
    assert isinstance(result.network.module.get_submodule("hidden"), torch.nn.Linear)


def test_a_float_file_holds_no_sixteen_bits(network, tmp_path):
    onnx_format.save(network, tmp_path / "float.onnx")
    with pytest.raises(CheckFailed, match="16 bits"):
        check_cast(tmp_path / "float.onnx")
