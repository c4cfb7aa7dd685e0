"""A pruned network computes what the whole one does when nobody listens to the channels that went."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.compression.networks import ZOO, make
from tests.compression.pruning.masking import masked, some
from workers.compression.lifting import lift
from workers.compression.pruning.groups import find_groups
from workers.compression.pruning.surgery import remove


@pytest.mark.parametrize("amount", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", ZOO)
def test_pruning_equals_masking(name, amount):
    network = make(name)
    groups = find_groups(network)
    units = some(groups, amount)
    assert len(units) > 0
    small, deaf = remove(network, groups, units), masked(network, groups, units)
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, expected, got = network.module(x), deaf.module(x), small.module(x)
    assert (got - expected).abs().max() <= 1e-5
    assert (whole - expected).abs().max() > 1e-4


@pytest.mark.parametrize("name", ZOO)
def test_a_pruned_network_exports_reloads_and_can_be_pruned_again(name):
    network = make(name)
    groups = find_groups(network)
    small = remove(network, groups, some(groups, 0.4))
    again = lift(small.export())
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(small.module(x), again.module(x))
    assert repr(again.module.get_submodule("")) == repr(small.module)
    others = find_groups(again)
    smaller = remove(again, others, some(others, 0.5, seed=1))
    assert sum(p.numel() for p in smaller.module.parameters()) < sum(p.numel() for p in again.module.parameters())
    assert smaller.module(x).shape == network.module(x).shape


def test_a_fixed_batch_is_pruned_too():
    network = make("resnet_option_a", dynamic=False, batch=3)
    groups = find_groups(network)
    units = some(groups, 0.5)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        difference = remove(network, groups, units).module(x) - masked(network, groups, units).module(x)
    assert difference.abs().max() <= 1e-5


def test_what_meets_a_value_spread_over_heads_loses_whole_heads():
    class Spread(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.fc = nn.Linear(6, 12), nn.Linear(12, 2)

        def forward(self, x):
            # Three heads of four: no head can lose one of the four, which the constant counts.
            return self.fc((self.wide(x).view(-1, 3, 4) * torch.linspace(1, 2, 4)).flatten(1))

    exported = torch.export.export(Spread(), (torch.randn(2, 6),), dynamic_shapes=({0: Dim("batch")},))
    network = lift(exported)
    groups = find_groups(network)
    assert len(groups.units) == 3
    small = remove(network, groups, groups.units[1:])
    x = torch.randn(5, 6)
    assert small.module.get_parameter("wide.weight").shape == (4, 6)
    difference = small.module(x) - masked(network, groups, groups.units[1:]).module(x)
    assert difference.abs().max() <= 1e-5


def test_modules_know_their_new_sizes():
    network = make("mobilenet")
    groups = find_groups(network)
    small = remove(network, groups, some(groups, 0.5)).module
    for name, part in small.named_modules():
        if isinstance(part, torch.nn.Conv2d):
            assert part.weight.shape[:2] == (part.out_channels, part.in_channels // part.groups), name
        if isinstance(part, torch.nn.BatchNorm2d):
            assert part.num_features == len(part.weight) == len(part.running_var), name
    depthwise = small.get_submodule("blocks.0.depthwise.0")
    assert depthwise.groups == depthwise.in_channels < 32
