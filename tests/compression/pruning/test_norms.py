"""Norms that work across channels, as modules with weights of their own."""

import pytest
import torch
from torch import nn

from workers.compression.inspection import group_layers
from workers.compression.lifting import lift


@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 16), nn.LayerNorm([16, 8, 8])])
def test_a_norm_across_channels_costs_pruning_and_says_so(norm):
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), norm, nn.SiLU(), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    exported = torch.export.export(network.eval(), (torch.zeros(2, 1, 8, 8),))
    layers = {layer.name: layer for layer in group_layers(lift(exported))}
    assert not layers["0"].prunable
    assert "norm" in layers["0"].reason
    assert layers["3"].prunable
