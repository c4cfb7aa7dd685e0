import torch
from torch import nn
from torch.export import Dim

from tests.compression.networks import make
from workers.compression.counting import count_macs, count_nonzero_parameters, count_parameters, describe_layers
from workers.compression.lifting import lift


def network(module, *shape, dynamic=True):
    shapes = ({0: Dim("batch")},) if dynamic else None
    return lift(torch.export.export(module.eval(), (torch.randn(2, *shape),), dynamic_shapes=shapes))


def test_convolutions_and_linear_layers_count_by_hand():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ConvTranspose2d(8, 4, 2, 2), nn.Flatten(),
        nn.Linear(4 * 64, 10),
    )  # fmt: skip
    expected = 16 * 8 * 27 + 16 * 8 * 9 + 16 * 8 * 4 * 4 + 2560
    assert count_macs(network(module, 3, 8, 8)) == expected
    assert count_macs(network(module, 3, 8, 8, dynamic=False)) == expected
    assert count_parameters(network(module, 3, 8, 8)) == sum(p.numel() for p in module.parameters())


def test_a_one_dimensional_convolution_counts_by_hand():
    assert count_macs(network(nn.Conv1d(3, 5, 3), 3, 10)) == 8 * 5 * 9


def test_attention_counts_both_products_however_it_is_written():
    tokens, width, head = 5, 24, 6
    products = 2 * 4 * tokens * tokens * head
    layers = 4 * 48 * width + tokens * width * (3 * width + width + 2 * 40) + 10 * width
    assert count_macs(make("vit")) == count_macs(make("vit_matmul")) == products + layers


def test_zeros_are_no_nonzero_parameters():
    mlp = make("mlp").clone()
    weight = mlp.module.get_parameter("layers.1.weight")
    before = count_nonzero_parameters(mlp)
    with torch.no_grad():
        weight[:4] = 0
    assert count_nonzero_parameters(mlp) == before - 4 * 192
    assert count_parameters(mlp) == sum(p.numel() for p in mlp.module.parameters())


def test_layers_are_listed_in_order_with_their_shares():
    mlp = make("mlp")
    layers = describe_layers(mlp)
    assert [(layer.name, layer.op) for layer in layers] == [
        ("layers.1", "linear"), ("layers.2", "batch_norm"), ("layers.5", "linear"), ("layers.7", "linear"),
    ]  # fmt: skip
    assert sum(layer.parameters for layer in layers) == count_parameters(mlp)
    assert sum(layer.macs for layer in layers) == count_macs(mlp)
    assert [layer.quantizable for layer in layers] == [True, False, True, True]


class FixedTransform(nn.Module):
    """A matrix that is no parameter between two weights, the second of them loose with a bias that is none either."""

    def __init__(self):
        super().__init__()
        self.first, self.loose = nn.Linear(6, 8), nn.Parameter(torch.randn(8, 3))
        self.register_buffer("cosines", torch.randn(8, 8))
        self.register_buffer("shift", torch.randn(3))

    def forward(self, x):
        return torch.addmm(self.shift, self.first(x) @ self.cosines, self.loose)


def test_a_matrix_that_is_no_parameter_is_no_layer():
    fixed = network(FixedTransform(), 6)
    layers = {layer.name: layer for layer in describe_layers(fixed)}
    assert set(layers) == {"first", "loose"}
    assert layers["loose"].parameters == 24
    assert count_macs(fixed) == sum(layer.macs for layer in layers.values()) + 8 * 8
