"""What `test_surgery` shows for each coupling alone, for whole architectures and the files written of them."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.compression import architectures, networks, pretrained
from tests.compression.pruning.masking import masked, some
from workers.compression.admission.pt2 import admit_pt2
from workers.compression.formats import onnx, pt2
from workers.compression.lifting import lift
from workers.compression.pruning.groups import find_groups
from workers.compression.pruning.surgery import remove

# torch's own LSTM sets the list of its weights anew whenever it runs.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes? self.lstm._flat_weights:UserWarning")


@dataclass(frozen=True)
class Architecture:
    """A network, the shape of a row of each input (None: tokens and their mask), and which layers lose no channels.

    The others must: ``whole`` are patterns of names with a part of the reason.
    """

    build: Callable[[], nn.Module]
    rows: tuple[tuple[int, ...], ...] | None
    whole: dict[str, str]
    any_length: bool = False

    def inputs(self, batch):
        generator = torch.Generator().manual_seed(batch)
        if self.rows is not None:
            return tuple(torch.randn(batch, *row, generator=generator) for row in self.rows)
        mask = torch.ones(batch, 6, dtype=torch.int64)
        mask[0, 4:] = 0
        return torch.randint(60, (batch, 6), generator=generator), mask

    def export(self):
        axes = {0: Dim("batch")} | ({1: Dim("tokens", min=2, max=16)} if self.any_length else {})
        inputs = self.inputs(2)
        # As its documentation has it: what stands under no_grad inside would else be a graph of its own.
        with torch.no_grad():
            return torch.export.export(
                pretrained.shaken(self.build()), inputs, dynamic_shapes=tuple(axes for _ in inputs)
            )


OUTPUT, NORM, INPUT = "the network's outputs", "works across its channels", "the network's inputs"
IMAGE, LARGE, SERIES = ((3, 8, 8),), ((3, 16, 16),), ((3, 16),)
HEAD = {"fc": OUTPUT}
RESIDUAL = {"*embed*": NORM, "*wpe": NORM, "*.patch_embeddings.projection": NORM}

ARCHITECTURES = {
    "convnext": Architecture(
        architectures.ConvNeXt, IMAGE, HEAD | {"stem": NORM, "down": NORM, "*.depthwise": NORM, "*.narrow": NORM}
    ),
    "inception": Architecture(architectures.Inception, IMAGE, HEAD),
    "efficientnet_lite": Architecture(architectures.EfficientNetLite, IMAGE, HEAD),
    "resnext": Architecture(architectures.ResNeXt, IMAGE, HEAD),
    "autoencoder": Architecture(architectures.Autoencoder, IMAGE, {"head": OUTPUT}),
    "super_resolution": Architecture(architectures.SuperResolution, IMAGE, {"outer": OUTPUT}),
    "towers": Architecture(architectures.Towers, ((3, 8, 8), (5,)), HEAD | {"map": OUTPUT}),
    "shuffled": Architecture(architectures.Shuffled, IMAGE, HEAD),
    "group_normed": Architecture(architectures.GroupNormed, IMAGE, {"normed": NORM, "head": OUTPUT}),
    "wavenet": Architecture(architectures.WaveNet, SERIES, HEAD),
    "llama_block": Architecture(lambda: architectures.LlamaBlock(False), ((5, 24),), {"o": INPUT, "down": OUTPUT}),
    "llama_block_fused": Architecture(
        lambda: architectures.LlamaBlock(True), ((5, 24),), {"o": INPUT, "down": OUTPUT}
    ),
    "encoder": Architecture(architectures.Encoder, ((5, 16),), HEAD | {"*.out_proj": INPUT, "*.linear2": INPUT}),
    "recurrent": Architecture(architectures.Recurrent, SERIES, HEAD | {"before": "'lstm' (lstm), which no rule"}),
    "bert": Architecture(
        pretrained.bert, None, RESIDUAL | {"*.output.dense": NORM, "network.classifier": OUTPUT}
    ),
    "bert_encoder": Architecture(
        pretrained.bert_encoder, None, RESIDUAL | {"*.output.dense": NORM}, any_length=True
    ),
    "distilbert": Architecture(
        pretrained.distilbert, None, RESIDUAL | {"*.out_lin": NORM, "*.lin2": NORM, "network.classifier": OUTPUT}
    ),
    "gpt2": Architecture(pretrained.gpt2, None, RESIDUAL | {"*.c_proj": NORM, "*lm_head": OUTPUT}),
    "llama": Architecture(
        pretrained.llama, None,
        dict.fromkeys(("*embed_tokens", "*.o_proj", "*.down_proj"), "reduces its channels") | {"*lm_head": OUTPUT},
    ),
    "vit": Architecture(
        pretrained.vit, LARGE, RESIDUAL | {"*.o_proj": NORM, "*.fc2": NORM, "network.classifier": OUTPUT}
    ),
    "swin": Architecture(
        pretrained.swin, LARGE,
        RESIDUAL | {"*.o_proj": NORM, "*.fc2": NORM, "*.reduction": NORM, "network.classifier": OUTPUT},
    ),
    "resnet_bottleneck": Architecture(pretrained.resnet, LARGE, {"network.classifier.1": OUTPUT}),
}  # fmt: skip
ALL = [*ARCHITECTURES, *networks.ZOO]


def inputs_of(name, batch=3):
    architecture = ARCHITECTURES.get(name)
    return architecture.inputs(batch) if architecture else (torch.randn(batch, 3, 8, 8),)


@cache
def find(name):
    network = lift(ARCHITECTURES[name].export()) if name in ARCHITECTURES else networks.make(name)
    return network, find_groups(network)


def outputs_of(network, inputs):
    with torch.no_grad():
        outputs = network.module(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("amount", [0.3, 0.9])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pruning_equals_masking(name, amount):
    network, groups = find(name)
    units = some(groups, amount)
    inputs = inputs_of(name)
    whole, expected, got = (
        outputs_of(each, inputs) for each in (network, masked(network, groups, units), remove(network, groups, units))
    )
    assert [y.shape for y in got] == [y.shape for y in whole]
    assert max((a - b).abs().max() for a, b in zip(got, expected, strict=True)) <= 1e-5
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(whole, expected, strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_loses_channels_or_says_why_not(name):
    _, groups = find(name)
    whole = ARCHITECTURES[name].whole
    for layer in {producer.layer for producer in groups.producers}:
        told = [part for pattern, part in whole.items() if fnmatchcase(layer, pattern)]
        assert bool(told) != (layer in groups.names()), layer
        assert not told or told[0] in groups.reasons[layer], groups.reasons[layer]


HEADS = {
    "bert": ("network.bert.encoder.layer.0.attention.", ("self.query", "self.key", "self.value"), "output.dense"),
    "distilbert": ("network.distilbert.transformer.layer.0.attention.", ("q_lin", "k_lin", "v_lin"), "out_lin"),
    "vit": ("network.vit.layers.0.attention.", ("q_proj", "k_proj", "v_proj"), "o_proj"),
    "llama": ("network.model.layers.0.self_attn.", ("q_proj", "k_proj", "v_proj"), "o_proj"),
    "llama_block": ("", ("q", "k", "v"), "o"),
    "llama_block_fused": ("", ("q", "k", "v"), "o"),
}
QUERIES = {"llama": 2, "llama_block": 2, "llama_block_fused": 2}
"""Query heads that share a head of keys and values, where it is not one."""


@pytest.mark.parametrize("name", HEADS)
def test_heads_go_whole_and_with_the_queries_that_share_them(name):
    network, groups = find(name)
    prefix, entering, leaving = HEADS[name]
    shared = QUERIES.get(name, 1)
    heads = {p.layer: p.labels for p in groups.producers if p.layer.startswith(prefix) and p.layer in groups.names()}
    q, k, v = (heads[prefix + layer] for layer in entering)
    assert len(q) == shared * len(k) == shared * len(v)
    size = int((k == k[0]).sum())
    assert len(set(k)) == len(k) // size > 1
    assert all(len(set(part)) == 1 for part in k.reshape(-1, size)), "a head is one unit"
    assert np.array_equal(np.repeat(k.reshape(-1, size), shared, axis=0), q.reshape(-1, size))
    module = remove(network, groups, np.unique(k)[1:]).module
    shapes = [tuple(module.get_parameter(f"{prefix}{layer}.weight").shape) for layer in (*entering, leaving)]
    assert [shape[0] for shape in shapes[:3]] == [shared * size, size, size]
    assert shapes[3][1] == shared * size
    assert shapes[3][0] == network.module.get_parameter(f"{prefix}{leaving}.weight").shape[0]


@pytest.mark.parametrize("name", ALL)
def test_files_of_the_pruned_network_agree(name, tmp_path):
    network, groups = find(name)
    small = remove(network, groups, some(groups, 0.5))
    inputs = inputs_of(name)
    expected = outputs_of(small, inputs)
    pt2.save(small, tmp_path / "model.pt2")
    admit_pt2(tmp_path / "model.pt2")
    reloaded = pt2.load(tmp_path / "model.pt2")
    assert reloaded.signature == network.signature
    assert all(torch.equal(a, b) for a, b in zip(outputs_of(reloaded, inputs), expected, strict=True))
    onnx.save(small, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = (value.name for value in session.get_inputs())
    results = session.run(None, {key: x.numpy() for key, x in zip(names, inputs, strict=True)})
    for ours, theirs in zip(expected, results, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-4, atol=1e-5)
