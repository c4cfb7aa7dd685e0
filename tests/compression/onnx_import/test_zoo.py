"""Networks exported to ONNX and taken in again are those of the .pt2: outputs, names, and what must be cut together."""

import inspect

import numpy as np
import pytest
import torch

from tests.compression import architectures, networks, pretrained
from tests.compression.onnx_import.files import by_dynamo, by_tracing, run, taken_in
from tests.compression.pretrained import shaken
from workers.compression.inference import all_outputs
from workers.compression.inspection import group_layers
from workers.compression.lifting import lift

IMAGE = (torch.randn(2, 3, 8, 8),)
TEXT = (torch.arange(12).reshape(2, 6), torch.ones(2, 6, dtype=torch.int64))
CASES = {
    "resnet": (networks.ResNet, IMAGE),
    "mobilenet": (networks.MobileNet, IMAGE),
    "unet": (networks.UNet, IMAGE),
    "rearranged": (networks.Rearranged, IMAGE),
    "vit": (networks.ViT, IMAGE),
    "convnext": (architectures.ConvNeXt, IMAGE),
    "super_resolution": (architectures.SuperResolution, IMAGE),
    "group_normed": (architectures.GroupNormed, IMAGE),
    "towers": (architectures.Towers, (IMAGE[0], torch.randn(2, 5))),
    "wavenet": (architectures.WaveNet, (torch.randn(2, 3, 16),)),
    "llama_block": (lambda: architectures.LlamaBlock(fused=False), (torch.randn(2, 6, 24),)),
    "bert": (pretrained.bert, TEXT),
}


def known(layer):
    return layer.name, layer.op, layer.weight_shape, layer.macs


def described(network):
    """List layers but for the batch norms that exporters fold, with groups numbered as they come."""
    numbers = {}
    return [
        (*known(layer), layer.group and numbers.setdefault(layer.group, len(numbers)))
        for layer in group_layers(network)
        if layer.op != "batch_norm"
    ]  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def case(request):
    torch.manual_seed(0)
    make, inputs = CASES[request.param]
    module = shaken(make())
    shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    return module, inputs, lift(torch.export.export(module, inputs, dynamic_shapes=shapes))


def compare(path, module, inputs, reference):
    network = taken_in(path)
    assert [spec.name for spec in network.signature.inputs] == list(inspect.signature(module.forward).parameters)
    assert [spec.shape[0] for spec in network.signature.inputs] == ["batch"] * len(inputs)
    with torch.no_grad():
        ours, theirs = (all_outputs(each(*inputs)) for each in (network.module, module))
    for mine, wanted, exported in zip(ours, theirs, run(path, inputs), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max())
        np.testing.assert_allclose(mine, exported, rtol=1e-4, atol=1e-5 * wanted.abs().max())
    assert described(network) == described(reference)


long = pytest.mark.long  # what the other exporter writes of it is read always


@pytest.mark.parametrize(
    "case",
    ["vit", "group_normed", *(pytest.param(name, marks=long) for name in ("resnet", "llama_block", "towers"))],
    indirect=True,
)
def test_the_exporter_of_today(case, tmp_path):
    module, inputs, reference = case
    by_dynamo(module, inputs, tmp_path / "net.onnx")
    compare(tmp_path / "net.onnx", module, inputs, reference)


def test_the_exporter_of_before(case, tmp_path):
    module, inputs, reference = case
    by_tracing(module, inputs, tmp_path / "net.onnx", names=inspect.signature(module.forward).parameters)
    compare(tmp_path / "net.onnx", module, inputs, reference)


@pytest.mark.parametrize(("name", "opset"), [("resnet", 9), ("unet", 11), ("vit", 14), ("group_normed", 13)])
def test_old_operator_sets(name, opset, tmp_path):
    """Before 17, layer norms come in nine operators; before 20, GELU in five."""
    module = shaken(CASES[name][0]())
    by_tracing(module, IMAGE, tmp_path / "net.onnx", opset=opset)
    shapes = ({0: torch.export.Dim("batch")},)
    reference = lift(torch.export.export(module, IMAGE, dynamic_shapes=shapes))
    assert described(taken_in(tmp_path / "net.onnx")) == described(reference)
