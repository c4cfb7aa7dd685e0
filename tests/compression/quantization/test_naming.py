"""Layers that no module of torch's is, and names that two things would have."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from app.domain.steps.quantize import QuantizeSpec
from tests.compression.quantization.networks import digits, make_context, make_network
from tests.compression.quantization.schemes import make_text, run_onnx, run_torch, text_rows
from workers.compression.formats import onnx as onnx_format
from workers.compression.quantization import static
from workers.compression.quantization.fusion import check_fused


def quantize(network, rows, folder, **fields):
    spec = QuantizeSpec(method="quantize", samples=48, bias_correction="off", smooth_quant="off", **fields)
    dtype = network.signature.inputs[0].dtype
    result = static.run(network, spec, make_context(network, rows, folder, dtype=dtype))
    onnx_format.save(result.network, folder / "model.onnx")
    return result, check_fused(folder / "model.onnx")


def names(result):
    return [layer["name"] for layer in result.details["layers"]]


def test_products_with_weights_of_their_own_are_linear_layers(tmp_path):
    network, rows = make_text(), text_rows(96)
    result, operators = quantize(network, rows, tmp_path)
    assert names(result) == ["embedding", "query", "key", "product", "mixed", "head"]
    assert operators["MatMulIntegerToFloat"] + operators["QGemm"] == 5
    exact, found = run_torch(network, rows), run_onnx(tmp_path / "model.onnx", rows)
    assert np.square(exact).sum() / np.square(exact - found).sum() > 10**3
    left, _ = quantize(network, rows, tmp_path, exclude=("product",))
    assert names(left) == ["embedding", "query", "key", "mixed", "head"]


class Places(nn.Module):
    """What tells the places of a row apart, a constant within a part of its own as in BERT."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(12, 16)
        self.register_buffer("position_ids", torch.arange(12)[None], persistent=False)

    def forward(self, x):
        return x + self.table(self.position_ids[:, : x.shape[1]])


def test_constants_that_are_no_weights_keep_their_names(tmp_path):
    network = make_network(nn.Sequential(Places(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), (12, 16))
    rows = np.random.default_rng(0).standard_normal((64, 12, 16)).astype(np.float32)
    result, _ = quantize(network, rows, tmp_path)
    assert "0.position_ids" in dict(result.network.module.named_buffers())
    assert names(result)[-2:] == ["1", "3"]


class Namesake(nn.Module):
    """A convolution that is called what a sum is, and a linear layer that is called what an operator is."""

    def __init__(self):
        super().__init__()
        self.add, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.conv2d = nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.add(x))
        return self.conv2d((F.relu(self.second(x)) + x).mean((2, 3)))


@pytest.mark.parametrize(
    ("pattern", "left", "sums"), [("add", {"add"}, 0), ("conv2d", {"conv2d"}, 1), ("add_operator", set(), 0)]
)
def test_what_a_layer_is_called_goes_before_what_an_operator_is(tmp_path, pattern, left, sums):
    result, operators = quantize(make_network(Namesake(), (1, 8, 8)), digits()[:64], tmp_path, exclude=(pattern,))
    assert set(names(result)) == {"add", "second", "conv2d"} - left
    assert set(result.details["floats"]) == {pattern}
    assert operators["QLinearAdd"] == sums


class Tied(nn.Module):
    """A linear layer on the table of an embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(60, 32), nn.Linear(32, 32)
        self.out, self.head = nn.Linear(32, 60, bias=False), nn.Linear(60, 10)
        self.out.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(F.relu(self.out(torch.tanh(self.hidden(self.embedding(ids))).mean(1))))


def test_an_embedding_and_a_linear_layer_on_its_table_are_two(tmp_path):
    network = make_network(Tied(), (5,), dtype=torch.int64)
    both, _ = quantize(network, text_rows(), tmp_path)
    table, product = (name for name in names(both) if name not in {"hidden", "head"})
    for excluded, kept in ((table, product), (product, table)):
        one, _ = quantize(network, text_rows(), tmp_path, exclude=(excluded,))
        assert set(names(one)) == {"hidden", "head", kept}


class Mixed(nn.Module):
    """Integers around a transposed convolution, a norm and an activation that have no integer kernels."""

    def __init__(self):
        super().__init__()
        self.first, self.up = nn.Conv2d(1, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.norm, self.last = nn.GroupNorm(2, 8), nn.Conv2d(8, 10, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(F.hardtanh(self.norm(F.hardswish(self.up(x))))).mean((2, 3))


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ((), {}),
        (("up", "norm", "hardswish"), {}),
        (("relu", "u*"), {"relu": "left out"}),
        (("mean",), {"mean": "left out"}),
    ],
)
def test_all_that_computes_in_float_is_told_with_its_reason(tmp_path, exclude, left):
    result, operators = quantize(make_network(Mixed(), (1, 8, 8)), digits()[:64], tmp_path, exclude=exclude)
    without = dict.fromkeys(["up", "norm", "hardswish", "hardtanh"], "no integer kernel")
    assert result.details["floats"] == without | left
    assert operators["QLinearConv"] == 2
    targets = [str(node.target) for node in result.network.module.graph.nodes]
    relu = next(place for place, target in enumerate(targets) if "relu" in target)
    assert ("dequantize" in targets[relu - 1]) == ("relu" in exclude), "what is left out reads floats"
