"""Random networks with random operators left out: whatever is chosen can be written and runs on integers."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from app.domain.errors import NothingToQuantize
from app.domain.steps.quantize import QuantizeSpec
from tests.compression.quantization.networks import make_context, make_network
from workers.compression.formats import onnx as onnx_format
from workers.compression.lifting import op_name
from workers.compression.quantization import static
from workers.compression.quantization.fusion import check_fused

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(max=1),
    "dropout": lambda x: F.relu(F.dropout(x, training=False)),
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
}
WIDTH = 8


class Stack(nn.Module):
    """Layers of one width, each with an activation, some with a norm behind or a sum around."""

    def __init__(self, kinds, convolutions):
        super().__init__()
        make = (lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1)) if convolutions else (lambda: nn.Linear(WIDTH, WIDTH))
        self.layers = nn.ModuleList(make() for _ in kinds)
        self.norms = nn.ModuleList(nn.GroupNorm(2, WIDTH) if convolutions else nn.LayerNorm(WIDTH) for _ in kinds)
        self.head = nn.Linear(WIDTH, 4)
        self.kinds, self.convolutions = kinds, convolutions

    def forward(self, x):
        for (activation, behind), layer, norm in zip(self.kinds, self.layers, self.norms, strict=True):
            y = ACTIVATIONS[activation](layer(x))
            x = {"norm": norm, "sum": lambda y, x=x: y + x, "plain": lambda y: y}[behind](y)
        return self.head(x.mean((2, 3)) if self.convolutions else x)


kinds = st.lists(
    st.tuples(st.sampled_from(sorted(ACTIVATIONS)), st.sampled_from(["norm", "sum", "plain"])), min_size=1, max_size=3
)
names = ["layers.0", "layers.1", "layers.2", "head", "add", "relu", "sigmoid", "mul", "mean"]


def operators_in(network):
    found = {op_name(node) for node in network.module.graph.nodes if node.op == "call_function"}
    return found | ({"sigmoid", "mul"} if "silu" in found else set())


@settings(deadline=None, max_examples=10, derandomize=True)
@given(kinds, st.booleans(), st.sets(st.sampled_from(names)))
def test_whatever_is_left_out_the_rest_runs_on_integers(kinds, convolutions, chosen):
    shape = (WIDTH, 6, 6) if convolutions else (WIDTH,)
    network = make_network(Stack(kinds, convolutions), shape)
    rows = np.random.default_rng(0).normal(size=(48, *shape)).astype(np.float32)
    layers = {f"layers.{place}" for place in range(len(kinds))} | {"head"}
    exclude = tuple(sorted(chosen & (layers | operators_in(network))))
    spec = QuantizeSpec(method="quantize", samples=48, bias_correction="off", smooth_quant="off", exclude=exclude)
    with tempfile.TemporaryDirectory() as folder:
        try:
            quantized = static.run(network, spec, make_context(network, rows, Path(folder))).network
        except NothingToQuantize:
            assert layers <= set(exclude)
            return
        onnx_format.save(quantized, Path(folder) / "model.onnx")
        operators = check_fused(Path(folder) / "model.onnx")
    assert operators["QLinearConv"] + operators["QGemm"] == len(layers - set(exclude))
