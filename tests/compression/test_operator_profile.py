import numpy as np
import pytest
from torch import nn

from tests.compression.quantization.networks import make_network
from workers.compression.formats import onnx
from workers.compression.operator_profile import profile_operators, streamed_bytes_per_second, weight_bytes


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    layers = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 144, 4))
    path = tmp_path_factory.mktemp("profile") / "net.onnx"
    onnx.save(make_network(layers, (3, 16, 16)), path)
    return path


def test_time_and_bytes_go_to_the_operators_that_take_them(path):
    profile = profile_operators(path, 2, 1, 0)
    found = {figures.operator: figures for figures in profile.operators}
    assert found["Conv"].nodes == 2
    assert found["Conv"].weight_bytes == 4 * (32 * 27 + 32 + 32 * 32 * 9 + 32)
    assert found["Gemm"].weight_bytes >= 4 * 32 * 144 * 4
    assert sum(figures.time_share for figures in profile.operators) == pytest.approx(1)
    assert profile.operators[0].operator == "Conv"
    times = [figures.time_ms for figures in profile.operators]
    assert times == sorted(times, reverse=True)
    assert 0 <= profile.outside < 1


def test_stored_integers_belong_to_what_computes_with_them(tmp_path):
    from onnx import TensorProto, helper, numpy_helper, save

    weight = numpy_helper.from_array(np.ones((8, 8), np.int8), "weight")
    scale = numpy_helper.from_array(np.float32(0.5), "scale")
    nodes = [
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["floats"]),
        helper.make_node("MatMul", ["x", "floats"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, scale])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "net.onnx")
    assert weight_bytes(tmp_path / "net.onnx") == {"MatMul": 64, "DequantizeLinear": 4}


def test_memory_is_read_at_some_gigabytes_a_second():
    assert 1e8 < streamed_bytes_per_second() < 1e13
