"""What stands in the graph that ONNX Runtime runs, operator by operator."""

import itertools
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from app.domain.errors import CheckFailed
from app.domain.steps.quantize import OPERATORS, QuantizeSpec
from tests.compression.quantization.networks import make_context, make_network
from tests.compression.quantization.schemes import run_onnx, run_torch
from workers.compression.formats import onnx as onnx_format
from workers.compression.quantization import static
from workers.compression.quantization.fusion import INTEGER_LAYERS, check_fused, optimized_graph
from workers.compression.quantization.quantizer import QUANTIZABLE

SPEC = QuantizeSpec(method="quantize", samples=48, bias_correction="off", smooth_quant="off")


class Between(nn.Module):
    """An operator between two convolutions."""

    def __init__(self, middle, convolution=nn.Conv2d):
        super().__init__()
        self.first, self.second = convolution(3, 8, 3, padding=1), convolution(8, 8, 3, padding=1)
        self.middle = middle

    def forward(self, x):
        return self.second(self.middle(self.first(x)))


class Attention(nn.Module):
    """A pre-norm block over tokens: embedding, attention, GELU; its first norm has outliers in two channels."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)
        with torch.no_grad():
            self.norm1.weight[:2] = 60.0

    def forward(self, tokens):
        x = self.embedding(tokens)
        q, k, v = (part.unflatten(2, (4, 8)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, 2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head((x + self.down(F.gelu(self.up(self.norm2(x))))).mean(1))


def operators_of(network, rows, folder, spec=SPEC):
    result = static.run(network, spec, make_context(network, rows, folder, dtype=network.signature.inputs[0].dtype))
    onnx_format.save(result.network, folder / "model.onnx")
    return result, check_fused(folder / "model.onnx")


@pytest.mark.parametrize(
    ("middle", "convolution", "expected"),
    [
        (F.silu, nn.Conv2d, {"QLinearSigmoid": 1, "QLinearMul": 1}),
        (lambda x: F.leaky_relu(x, 0.1), nn.Conv2d, {"QLinearLeakyRelu": 1}),
        (lambda x: F.interpolate(x, scale_factor=2), nn.Conv2d, {"Resize": 1}),
        (lambda x: x[:, :, 1:, 1:], nn.Conv2d, {"Slice": None}),
        (lambda x: F.avg_pool1d(x, 2), nn.Conv1d, {"QLinearAveragePool": 1}),
        (lambda x: F.max_pool1d(x, 2), nn.Conv1d, {"MaxPool": 1}),
    ],
)
def test_what_has_an_integer_kernel_runs_on_integers(tmp_path, middle, convolution, expected):
    shape = (3, 12) if convolution is nn.Conv1d else (3, 12, 12)
    rows = np.random.default_rng(0).normal(size=(48, *shape)).astype(np.float32)
    _, operators = operators_of(make_network(Between(middle, convolution), shape), rows, tmp_path)
    counted = operators - Counter(Slice=operators["Slice"] if "Slice" in expected else 0)
    wanted = {name: count for name, count in expected.items() if count is not None}
    assert counted == Counter({"QuantizeLinear": 1, "QLinearConv": 2, "DequantizeLinear": 1} | wanted)


@pytest.mark.parametrize(
    ("pad", "left"),
    [
        (lambda x: F.pad(x, (0, 1, 2, 0)), 0),
        (lambda x: F.pad(x, (0, 1, 0, 1), value=2.0), 1),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 1),
    ],
)
def test_padding_with_zeros_becomes_the_convolutions_own(tmp_path, pad, left):
    rows = np.random.default_rng(0).normal(size=(48, 3, 12, 12)).astype(np.float32)
    network = make_network(Between(pad), (3, 12, 12))
    # Saving compares the file's outputs with torch's.
    onnx_format.save(network, tmp_path / "float.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "float.onnx").graph.node)
    assert found["Pad"] == left
    _, operators = operators_of(network, rows, tmp_path)
    assert operators["QLinearConv"] == 2
    assert operators["Pad"] == left
    if not left:
        assert (operators["QuantizeLinear"], operators["DequantizeLinear"]) == (1, 1)


@pytest.mark.parametrize("middle", [F.gelu, lambda x: F.hardtanh(x, -1, 1), F.hardswish])
def test_what_has_none_is_float_between_two_conversions(tmp_path, middle):
    rows = np.random.default_rng(0).normal(size=(48, 3, 12, 12)).astype(np.float32)
    _, operators = operators_of(make_network(Between(middle), (3, 12, 12)), rows, tmp_path)
    assert operators["QLinearConv"] == 2
    assert (operators["QuantizeLinear"], operators["DequantizeLinear"]) == (2, 2)


class Rows(nn.Module):
    """A linear layer over rows, an activation, and a norm or nothing before two further layers."""

    def __init__(self, activation, norm=None):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 4)
        self.activation, self.norm = activation, norm or nn.Identity()

    def forward(self, x):
        x = self.norm(self.activation(self.first(x)))
        return self.head(self.activation(self.second(x)))


CLIPS = {
    "relu": (F.relu, 0),
    "clamp": (lambda x: x.clamp(0, 1), 0),
    "hardtanh": (F.hardtanh, 1),
    "dropout": (lambda x: F.relu(F.dropout(x, training=False)), 0),
}


@pytest.mark.parametrize(
    ("name", "excluded"), [("relu", ("relu",)), *itertools.product(CLIPS, [(), ("second",)])]
)  # fmt: skip
def test_a_linear_layer_runs_on_integers_whatever_reads_what_it_clips(tmp_path, name, excluded):
    activation, kept = CLIPS[name]
    rows = np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)
    network = make_network(Rows(activation, None if excluded else nn.LayerNorm(24)), (16,))
    _, operators = operators_of(network, rows, tmp_path, SPEC.model_copy(update={"exclude": excluded}))
    assert operators["QGemm"] == 3 - ("second" in excluded)
    assert operators["Clip"] >= kept, "a clip of both signs is an operator of its own"


@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity])
def test_a_layer_in_float_between_integers_stays_in_float(tmp_path, make, activation):
    middle = nn.Sequential(make(8, 8, 3, padding=1, groups=2), activation())
    rows = np.random.default_rng(0).normal(size=(48, 3, 12, 12)).astype(np.float32)
    exclude = ("middle.0",) if make is nn.Conv2d else ()
    network = make_network(Between(middle), (3, 12, 12))
    result, operators = operators_of(network, rows, tmp_path, SPEC.model_copy(update={"exclude": exclude}))
    assert operators["QLinearConv"] == 2
    assert operators[make.__name__.removesuffix("2d")] == 1
    kept = network.module.get_parameter("middle.0.weight").detach().numpy()
    stored = map(onnx.numpy_helper.to_array, optimized_graph(tmp_path / "model.onnx").initializer)
    assert any(value.shape == kept.shape and (value == kept).all() for value in stored), "its weights are as they were"
    written, judged = run_onnx(tmp_path / "model.onnx", rows), run_torch(result.network, rows)
    assert np.mean(np.abs(written - judged) > 1e-5) < 1e-3, "but for single quanta on the edge"


class Gram(nn.Module):
    """A layer, and a linear operator whose weight is an input."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        return self.head(x) + F.linear(x, x)


def test_a_product_of_two_inputs_is_no_layer(tmp_path):
    rows = np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)
    result, operators = operators_of(make_network(Gram(), (64,), batch=4), rows, tmp_path)
    assert [layer["name"] for layer in result.details["layers"]] == ["head"]
    assert operators["QGemm"] + operators["MatMulIntegerToFloat"] == 1


@pytest.fixture(scope="module")
def attention():
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(0, 50, (160, 12))
    return make_network(Attention(), (12,), dtype=torch.int64), tokens


def test_a_transformer_computes_its_products_on_integers_and_its_norms_in_float(tmp_path, attention):
    network, tokens = attention
    result, operators = operators_of(network, tokens, tmp_path)
    assert operators["MatMulIntegerToFloat"] == 4
    assert operators["QGemm"] == 1
    assert operators["LayerNormalization"] + operators["SkipLayerNormalization"] == 2
    assert not {"QLinearMatMul", "QLinearAdd"} & set(operators)
    assert {layer["name"] for layer in result.details["layers"]} == {
        "embedding", "qkv", "out", "up", "down", "head"
    }  # fmt: skip
    stored = {t.data_type for t in onnx.load(tmp_path / "model.onnx").graph.initializer if np.prod(t.dims) > 200}
    assert stored <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}, "the table is stored as bytes as well"


def test_smoothing_is_used_where_channels_stick_out(tmp_path, attention):
    network, tokens = attention
    spec = SPEC.model_copy(update={"smooth_quant": "auto", "observer": "minmax"})
    decision = static.run(network, spec, make_context(network, tokens, tmp_path, dtype="int64")).details["smooth_quant"]
    assert decision["used"]
    assert decision["sqnr_db_with"] > decision["sqnr_db_without"] + 1


def graph_of(nodes, constants, folder):
    values = [onnx.helper.make_tensor_value_info(name, 1, (1, 2, 4, 4)) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_a_pair_with_nothing_in_between_is_named(tmp_path):
    constants = [
        onnx.numpy_helper.from_array(np.float32(0.1), "s"),
        onnx.numpy_helper.from_array(np.uint8(3), "z"),
    ]
    make = onnx.helper.make_node
    nodes = [
        make("Exp", ["x"], ["a"], name="before"),
        make("QuantizeLinear", ["a", "s", "z"], ["q"], name="quantize"),
        make("Transpose", ["q"], ["t"], name="turn", perm=[0, 1, 3, 2]),
        make("DequantizeLinear", ["t", "s", "z"], ["b"], name="dequantize"),
        make("Exp", ["b"], ["y"], name="behind"),
    ]
    with pytest.raises(CheckFailed, match=r"1 pairs .*before to behind"):
        check_fused(graph_of(nodes, constants, tmp_path))


def test_operators_that_may_be_excluded_are_those_that_may_be_integers():
    assert {target._schema.name.split("::")[1].removesuffix("_") for target in QUANTIZABLE} == OPERATORS


def test_a_layer_that_runs_in_float_is_named_as_the_user_knows_it(tmp_path):
    rows = np.random.default_rng(0).normal(size=(48, 3, 12, 12)).astype(np.float32)
    operators_of(make_network(Between(nn.Sequential(nn.Conv2d(8, 8, 1))), (3, 12, 12)), rows, tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    assert {"first.weight", "middle.0.weight", "second.bias"} <= {tensor.name for tensor in model.graph.initializer}
    # Without the pair behind it, a convolution has no integer form.
    convolution = [node for node in model.graph.node if node.op_type == "Conv"][1]
    pair = next(node for node in model.graph.node if convolution.output[0] in node.input)
    behind = next(node for node in model.graph.node if pair.output[0] in node.input)
    for node in model.graph.node:
        node.input[:] = [convolution.output[0] if name == behind.output[0] else name for name in node.input]
    for node in (behind, pair):
        model.graph.node.remove(node)
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(CheckFailed, match=r"in float: .*middle\.0"):
        check_fused(tmp_path / "broken.onnx")


def test_an_embedding_alone_may_be_stored_in_bytes(tmp_path, attention):
    network, tokens = attention
    result, operators = operators_of(network, tokens, tmp_path, SPEC.model_copy(update={"include": ("embedding",)}))
    assert [layer["name"] for layer in result.details["layers"]] == ["embedding"]
    assert INTEGER_LAYERS.isdisjoint(operators), "no product was asked for"
    stored = onnx.load(tmp_path / "model.onnx").graph.initializer
    assert [50, 32] in [list(tensor.dims) for tensor in stored if tensor.data_type == onnx.TensorProto.UINT8]


def test_a_transformer_of_a_fixed_batch_runs_on_integers_too(tmp_path, attention):
    """ONNX Runtime makes its layers a Gemm each, as all sizes are known."""
    tokens = attention[1]
    torch.manual_seed(0)
    network = make_network(Attention(), (12,), batch=4, dtype=torch.int64)
    result, operators = operators_of(network, tokens, tmp_path)
    assert operators["QGemm"] == 5
    assert "MatMulIntegerToFloat" not in operators
    assert {layer["name"] for layer in result.details["layers"]} == {
        "embedding", "qkv", "out", "up", "down", "head"
    }  # fmt: skip
    found = run_onnx(tmp_path / "model.onnx", tokens[:4])
    free, _ = operators_of(attention[0], tokens, tmp_path)
    for other in (result.network, free.network):
        np.testing.assert_allclose(found, run_torch(other, tokens[:4]), atol=0.02 * np.abs(found).max())
