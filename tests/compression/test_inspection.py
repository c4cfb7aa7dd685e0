import pytest
import torch
from torch import nn

from app.domain.errors import UnsupportedNetwork
from tests.compression.networks import Odd, ResNet, export
from tests.compression.pruning.test_architectures import find
from workers.compression.figures import layer_figures
from workers.compression.inspection import group_layers, inspect_model


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
    assert facts.features["stem.0"] == (8, 8, 8)
    assert facts.features["blocks.1.down.0"] == (16, 4, 4)
    assert "fc" not in facts.features, "it gives the output itself"
    assert facts.blocks == (("blocks.0.conv1.0", "blocks.0.conv1.1", "blocks.0.conv2.0", "blocks.0.conv2.1"),)


def test_layers_that_cannot_be_pruned_say_why(tmp_path):
    layers = {layer.name: layer for layer in inspect(Odd(), tmp_path).layers}
    assert layers["known"].prunable
    assert layers["known"].reason is None
    assert not layers["odd"].prunable
    assert "'renorm'" in layers["odd"].reason
    assert "outputs" in layers["head"].reason


def test_a_transformer_shows_its_heads_and_its_feed_forward_width():
    layers = {layer.name: layer for layer in group_layers(find("bert")[0])}
    block = "network.bert.encoder.layer.0."
    heads = {layers[f"{block}attention.self.{part}"].group for part in ("query", "key", "value")}
    assert heads == {"g1"}
    assert layers[f"{block}intermediate.dense"].group == "g2"
    for name in (f"{block}attention.output.dense", f"{block}output.dense", "network.bert.embeddings.word_embeddings"):
        assert "'layer_norm'" in layers[name].reason
    assert "outputs" in layers["network.classifier"].reason


def test_layers_on_weights_that_no_module_of_torch_owns_are_listed():
    network, _ = find("gpt2")
    layers = {layer.name: layer for layer in group_layers(network)}
    block = "network.transformer.h.0."
    attention = layers[f"{block}attn.c_attn"]
    assert (attention.op, attention.weight_shape, attention.group) == ("linear", (48, 16), "g1")
    assert attention.parameters == 16 * 48 + 48
    assert attention.macs == 6 * 16 * 48
    assert layers[f"{block}mlp.c_fc"].group == "g2"
    assert attention.quantizable, "a product with its own weight is a linear layer"
    assert [figures.name for figures in layer_figures(network, ())] == list(layers)
    encoder = {layer.name: layer for layer in group_layers(find("encoder")[0])}
    assert encoder["layer.self_attn"].group == "g1"
    assert encoder["layer.linear1"].group == "g2"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_floats_are_refused_by_name(tmp_path, dtype):
    exported = torch.export.export(nn.Sequential(nn.Linear(4, 2)).to(dtype), (torch.zeros(2, 4, dtype=dtype),))
    torch.export.save(exported, tmp_path / "model.pt2")
    with pytest.raises(UnsupportedNetwork, match=str(dtype).removeprefix("torch.")) as caught:
        inspect_model(tmp_path / "model.pt2", "pt2")
    assert "model.float()" in caught.value.hint


def test_a_group_norm_over_single_values_is_looked_into_on_one_row(tmp_path):
    torch.export.save(export(nn.Sequential(nn.Conv2d(3, 4, 8), nn.GroupNorm(4, 4))), tmp_path / "model.pt2")
    norm = next(layer for layer in inspect_model(tmp_path / "model.pt2", "pt2").layers if layer.op == "group_norm")
    assert norm.weight_shape == (4,)
