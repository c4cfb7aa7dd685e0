import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from tests.compression.networks import conv, make
from workers.compression.distillation.blocks import find_blocks, keep_blocks
from workers.compression.lifting import lift


class Layer(nn.Module):
    """An encoder layer with its norms behind the sums (Vaswani 2017), reading a mask."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x, bias):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        # Each layer scales the mask anew: equal work on values that are no part of the block.
        y = (q @ k.mT + bias.unsqueeze(1) * 2).softmax(-1) @ v
        x = self.norm1(x + self.out(y))
        return self.norm2(x + self.narrow(F.gelu(self.wide(x))))


class Encoder(nn.Module):
    def __init__(self, *, mask_first):
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(Layer(8) for _ in range(4))
        self.mask_first = mask_first

    def forward(self, ids, mask):
        if self.mask_first:
            bias, x = (1 - mask) * -100.0, self.norm(self.embedding(ids))
        else:
            x = self.norm(self.embedding(ids))
            bias = (1 - mask) * -100.0
        for layer in self.layers:
            x = layer(x, bias)
        return self.head(x.mean(1))


@pytest.fixture(params=[True, False], ids=["mask first", "mask between"])
def encoder(request):
    torch.manual_seed(0)
    inputs = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5)
    shapes = ({0: Dim("batch")}, {0: Dim("batch")})
    return lift(torch.export.export(Encoder(mask_first=request.param).eval(), inputs, dynamic_shapes=shapes))


def names(network):
    return [sorted({layer.rpartition(".")[0] for layer in block.layers}) for block in find_blocks(network)]


def test_encoder_layers_are_found_whole_though_all_read_one_mask(encoder):
    assert names(encoder) == [[f"layers.{place}"] for place in range(4)]


def test_the_rest_computes_what_the_network_does_without_them(encoder):
    blocks = find_blocks(encoder)
    smaller = keep_blocks(encoder, [blocks[1], blocks[2]])
    inputs = encoder.example_inputs()
    torch.manual_seed(0)
    module = Encoder(mask_first=False).eval()
    with torch.no_grad():
        assert not torch.equal(smaller.module(*inputs), encoder.module(*inputs))
        module.layers = nn.ModuleList([module.layers[0], module.layers[3]])
        torch.testing.assert_close(smaller.module(*inputs), module(*inputs))
    assert not any(name.startswith(("layers.1", "layers.2")) for name, _ in smaller.module.named_parameters())
    assert names(smaller) == [["layers.0"], ["layers.3"]]
    smaller.export()


def test_residual_blocks_that_keep_their_shape_are_found(digits_network):
    assert names(make("resnet")) == [["blocks.0.conv1", "blocks.0.conv2"]]
    found = [block[0].split(".")[1] for block in names(make("resnet_option_a"))]
    assert found == ["0", "1", "2", "4", "5", "7", "8"]  # all but those that change the shape
    assert [block[0].split(".")[1] for block in names(make("mobilenet"))] == ["0", "2"]


def test_repeated_layers_without_a_shortcut_are_found():
    torch.manual_seed(0)
    layers = [part for _ in range(3) for part in (*conv(8, 8), nn.ReLU())]
    module = nn.Sequential(*conv(3, 8), nn.ReLU(), *layers, nn.Flatten(), nn.Linear(8 * 64, 10)).eval()
    network = lift(torch.export.export(module, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: Dim("batch")},)))
    assert [block.layers for block in find_blocks(network)] == [("3", "4"), ("6", "7"), ("9", "10")]


@pytest.mark.parametrize("name", ["densenet", "shufflenet", "unet", "mlp", "rearranged"])
def test_networks_without_such_blocks_have_none(name):
    assert find_blocks(make(name)) == []
