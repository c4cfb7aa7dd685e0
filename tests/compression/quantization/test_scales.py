"""Biases in units of their sums against a slow reference, and networks with channels that hardly read their input."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from app.domain.steps.quantize import QuantizeSpec
from tests.compression.quantization.networks import digits, make_context, make_network
from tests.compression.quantization.schemes import run_onnx, run_torch
from workers.compression.formats import onnx as onnx_format
from workers.compression.quantization import static
from workers.compression.quantization.fusion import check_fused
from workers.compression.quantization.plan import make_plan
from workers.compression.quantization.qat_integer import round_in_training, settle_weights
from workers.compression.quantization.scales import least_scales, weight_scales

numbers = st.floats(-1e4, 1e4, width=32)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(numbers, min_size=4, max_size=4), st.floats(-12, 0), st.floats(2**-24, 1e3, width=32))
def test_a_bias_of_any_channel_is_the_nearest_integer_of_its_sums(biases, magnitude, input_scale):
    weight = torch.linspace(-1, 1, 12).reshape(4, 3) * 10**magnitude
    bias = torch.tensor(biases)
    scales = torch.maximum(weight_scales(weight, 127), least_scales(bias, input_scale)) * input_scale
    zeros = torch.zeros(4, dtype=torch.int32)
    stored = torch.ops.quantized_decomposed.quantize_per_channel(
        bias, scales, zeros, 0, -(2**31), 2**31 - 1, torch.int32
    )
    for value, scale, found in zip(bias.tolist(), scales.tolist(), stored.tolist(), strict=True):
        exact = Fraction(value) / Fraction(scale)
        # What float32 rounds away of a large quotient is no more than 2⁻²² of it.
        assert abs(found - round(exact)) <= abs(exact) * Fraction(1, 2**22) + 1
        assert abs(found) <= 2**30 + 2**8


class HalfDead(nn.Module):
    """A convolution and a linear layer, half of whose channels hardly read their input and have a bias all the same."""

    def __init__(self, magnitude):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, 10)
        with torch.no_grad():
            for layer in (self.first, self.hidden):
                layer.weight[:4] *= magnitude
                layer.bias[:4] = torch.tensor([1.0, -2.0, 3.0, 4.0])

    def forward(self, x):
        x = F.relu(self.second(F.relu(self.first(x)))).mean((2, 3))
        return self.head(F.relu(self.hidden(x)))


@pytest.mark.parametrize("magnitude", [0.0, 1e-7, 1e-4])
@pytest.mark.parametrize("correction", ["off", "on"])
def test_what_is_simulated_is_what_the_file_computes(tmp_path, magnitude, correction):
    rows = digits()
    network = make_network(HalfDead(magnitude), (1, 8, 8))
    spec = QuantizeSpec(method="quantize", samples=64, bias_correction=correction)
    context = make_context(network, rows[:128], tmp_path)
    with static.torchao_quiet():
        plan = make_plan(network, spec, context)
        quantized = static.finish(plan, static.prepare(plan), context).network
    inputs = torch.from_numpy(rows[128:256])
    simulated = plan.outputs(frozenset(), [(inputs,)]).numpy()
    onnx_format.save(quantized, tmp_path / "model.onnx")
    with torch.no_grad():
        exact, written = network.module(inputs).numpy(), quantized.module(inputs).numpy()
    assert np.square(exact).sum() / np.square(exact - written).sum() > 10**3.5
    assert np.abs(simulated - written).max() < np.abs(exact).max() / 100
    assert np.square(simulated - written).sum() < np.square(exact - written).sum() / 10


class Shared(nn.Module):
    """A convolution and a linear layer that run twice each, on inputs of very different ranges."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.conv = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 10)
        with torch.no_grad():
            self.fc.bias.uniform_(-3, 3)

    def forward(self, x):
        x = F.relu(self.conv(5 * F.relu(self.conv(F.relu(self.stem(x))))))
        return self.head(F.relu(self.fc(4 * F.relu(self.fc(x.mean((2, 3)))))))


@pytest.mark.parametrize("correction", ["off", "on"])
def test_each_call_of_a_layer_has_a_bias_in_units_of_its_own_sums(tmp_path, correction):
    rows = digits()
    network = make_network(Shared(), (1, 8, 8))
    spec = QuantizeSpec(method="quantize", samples=64, bias_correction=correction)
    result = static.run(network, spec, make_context(network, rows[:128], tmp_path))
    onnx_format.save(result.network, tmp_path / "model.onnx")
    operators = check_fused(tmp_path / "model.onnx")
    assert (operators["QLinearConv"], operators["QGemm"]) == (3, 3)
    exact, found = run_torch(network, rows[128:256]), run_onnx(tmp_path / "model.onnx", rows[128:256])
    assert np.square(exact).sum() / np.square(exact - found).sum() > 10**3
    assert np.abs(found - run_torch(result.network, rows[128:256])).max() < np.abs(exact).max() / 100
    weights = [v for v in result.network.module.state_dict().values() if v.dtype == torch.int8 and v.dim() > 1]
    assert len(weights) == 4, "what is shared is stored once"
    assert [layer["name"] for layer in result.details["layers"]] == ["stem", "conv", "fc", "head"]


def test_calls_of_a_layer_train_biases_of_their_own(tmp_path):
    network = make_network(Shared(), (1, 8, 8))
    spec = QuantizeSpec(method="quantize", scheme="qat", samples=64, bias_correction="off", smooth_quant="off")
    context = make_context(network, digits()[:64], tmp_path)
    with static.torchao_quiet():
        student = round_in_training(static.prepare(make_plan(network, spec, context)))
        settle_weights(student)
        converted = static._convert(student)
    onnx_format.save(replace(network, module=converted, quantized=True), tmp_path / "model.onnx")
    operators = check_fused(tmp_path / "model.onnx")
    assert (operators["QLinearConv"], operators["QGemm"]) == (3, 3)


def test_training_that_moves_a_bias_far_widens_its_channel(tmp_path):
    network = make_network(HalfDead(1e-4), (1, 8, 8))
    spec = QuantizeSpec(method="quantize", scheme="qat", samples=64, bias_correction="off", smooth_quant="off")
    context = make_context(network, digits()[:64], tmp_path)
    with static.torchao_quiet():
        student = round_in_training(static.prepare(make_plan(network, spec, context)))
    with torch.no_grad():
        student.get_parameter("first.bias")[:2] = torch.tensor([3e4, -3e4])
    settle_weights(student)
    with static.torchao_quiet():
        converted = static._convert(student)
    stored = [v for k, v in converted.state_dict().items() if v.dtype == torch.int32 and k.startswith("_frozen")]
    reached = [int(bias.abs().max()) for bias in stored]
    assert 2**30 - 2**8 <= max(reached) <= 2**30 + 2**8
