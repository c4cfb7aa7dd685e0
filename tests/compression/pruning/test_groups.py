import time

import pytest

from tests.compression.networks import ResNet, export, make
from workers.compression.lifting import lift
from workers.compression.pruning.groups import find_groups


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("resnet", 8 + 8 + 16 + 16 + 32 + 32),
        ("resnet_option_a", 32 + 3 * (8 + 16 + 32)),
        ("mobilenet", 8 + 32 + 8 + 32 + 8 + 12 + 48 + 8),
        ("densenet", 8 + 3 * 6),
        ("shufflenet", 8 + 8 + 12 + 24 - 0),
        ("grouped", 4 + 6 + 12),
        ("unet", 8 + 16 + 8 + 8),
        ("mlp", 32 + 24),
        ("series", 12 + 16),
        ("vit", 4 + 40),
        ("vit_matmul", 4 + 40),
    ],
)
def test_the_number_of_independent_channels_is_exact(name, units):
    groups = find_groups(make(name))
    assert len(groups.units) == units
    assert groups.walk.unknown == {}


def test_an_unknown_operator_is_named_and_freezes_only_what_it_meets():
    groups = find_groups(make("odd"))
    assert list(groups.walk.unknown.values()) == ["renorm"]
    assert groups.names() == {"known": "g1"}
    assert "'renorm'" in groups.reasons["odd"]


def test_the_residual_width_under_a_layer_norm_stays():
    groups = find_groups(make("vit"))
    assert set(groups.names()) == {"attention.qkv", "wide"}
    assert "layer_norm" in groups.reasons["patch"]


def test_groups_of_a_deep_network_are_found_quickly():
    network = lift(export(ResNet(widths=(64, 128, 256, 512), depth=2)))
    # Of this process' own time: what else the machine does is not counted.
    started = time.process_time()
    groups = find_groups(network)
    assert time.process_time() - started < 5
    assert len(groups.units) == 3 * 64 + 3 * 128 + 3 * 256 + 3 * 512
