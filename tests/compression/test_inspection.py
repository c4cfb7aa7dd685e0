import pytest
import torch
from torch import nn

from app.domain.errors import UnsupportedNetwork
from tests.compression.networks import Odd, ResNet, export
from workers.compression.inspection import inspect_model


def inspect(module, folder):
    torch.export.save(export(module), folder / "model.pt2")
    return inspect_model(folder / "model.pt2", "pt2")


def test_layers_that_must_be_cut_together_share_a_group(tmp_path):
    facts = inspect(ResNet(), tmp_path)
    groups = {layer.name: layer.group for layer in facts.layers}
    assert groups["stem.0"] == groups["stem.1"] == groups["blocks.0.conv2.0"] == "g1"
    assert groups["blocks.0.conv1.0"] == "g2"
    assert groups["blocks.1.down.0"] == groups["blocks.1.conv2.0"]
    assert len({group for group in groups.values() if group}) == 6
    assert facts.format == "pt2"
    assert facts.trainable
    assert facts.parameters == sum(p.numel() for p in ResNet().parameters())
    assert facts.macs == sum(layer.macs for layer in facts.layers)
    assert facts.signature.inputs[0].shape == ("batch", 3, 8, 8)


def test_layers_that_cannot_be_pruned_say_why(tmp_path):
    layers = {layer.name: layer for layer in inspect(Odd(), tmp_path).layers}
    assert layers["known"].prunable
    assert layers["known"].reason is None
    assert not layers["odd"].prunable
    assert "'renorm'" in layers["odd"].reason
    assert "outputs" in layers["head"].reason


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_floats_are_refused_by_name(tmp_path, dtype):
    exported = torch.export.export(nn.Sequential(nn.Linear(4, 2)).to(dtype), (torch.zeros(2, 4, dtype=dtype),))
    torch.export.save(exported, tmp_path / "model.pt2")
    with pytest.raises(UnsupportedNetwork, match=str(dtype).removeprefix("torch.")) as caught:
        inspect_model(tmp_path / "model.pt2", "pt2")
    assert "model.float()" in caught.value.hint
