from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from app.domain.errors import NothingToPrune, TargetUnreachable
from app.domain.steps.prune import PruneSpec
from tests.compression.networks import ResNet, conv, export, make
from workers.compression.counting import count_macs, count_parameters
from workers.compression.lifting import lift
from workers.compression.pruning import channel
from workers.compression.step import Context


@cache
def wide():
    torch.manual_seed(1)
    return lift(export(ResNet(widths=(32, 48, 96))))


def prune(name, folder, **options):
    network = wide() if name == "wide" else make(name)
    context = Context(network, None, 0, torch.device("cpu"), lambda _: None, folder)
    return channel.run(network, PruneSpec(method="prune", **options), context)


def widths(result):
    return {row["name"]: row["channels_after"] for row in result.details["layers"]}


@pytest.mark.parametrize(
    ("name", "measure", "ratio", "options"),
    [
        ("resnet", "macs", 2.0, {}),
        ("resnet", "macs", 4.0, {"rounds": 3, "scope": "layer"}),
        ("resnet", "parameters", 3.0, {"criterion": "bn_scale"}),
        ("mobilenet", "parameters", 1.5, {"rounds": 2}),
    ],
)
def test_a_ratio_is_met(tmp_path, name, measure, ratio, options):
    result = prune(name, tmp_path, **{f"{measure}_ratio": ratio}, **options)
    count = {"macs": count_macs, "parameters": count_parameters}[measure]
    met = count(make(name)) / count(result.network)
    assert met == pytest.approx(ratio, rel=0.03)
    assert result.details[f"{measure}_ratio"] == met


def test_a_ratio_out_of_reach_is_an_error_that_names_the_nearest(tmp_path):
    with pytest.raises(TargetUnreachable, match=r"of 500 was asked for; the nearest that these layers allow is \d"):
        prune("vit", tmp_path, macs_ratio=500)


def test_every_layer_keeps_the_minimum(tmp_path):
    assert min(widths(prune("resnet", tmp_path, amount=0.9, minimum_channels=5)).values()) == 5


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_what_stays_is_a_multiple(tmp_path, scope):
    found = widths(prune("resnet", tmp_path, amount=0.6, scope=scope, round_to=4))
    assert all(width % 4 == 0 for width in found.values())
    assert len(set(found.values())) > 1


def test_left_to_the_engine_multiples_of_eight_stay_where_what_was_asked_is_still_met(tmp_path):
    result = prune("wide", tmp_path, macs_ratio=3)
    assert result.details["round_to"] == result.spec.round_to == 8
    assert all(width % 8 == 0 for width in widths(result).values())
    assert result.details["macs_ratio"] == pytest.approx(3, rel=0.03)
    assert widths(result) == widths(prune("wide", tmp_path, macs_ratio=3, round_to=8))


@pytest.mark.parametrize("asked", [{"amount": 0.3}, {"amount": 0.95}, {"macs_ratio": 2}, {"parameters_ratio": 3}])
def test_left_to_the_engine_small_networks_lose_what_was_asked_for(tmp_path, asked):
    exact, found = (prune("resnet", tmp_path, **asked, **given) for given in ({"round_to": 1}, {}))
    multiple = found.details["round_to"]
    assert all(width % multiple == 0 for width in widths(found).values())
    if "amount" in asked:
        assert multiple < 8
        removed = [result.details["removed_channels"] for result in (exact, found)]
        assert abs(removed[1] - removed[0]) <= 0.03 * removed[0]
    for name in set(asked) - {"amount"}:
        assert found.details[name] == pytest.approx(asked[name], rel=0.03)


@pytest.mark.parametrize(("name", "asked"), [("wide", {"amount": 0.3}), ("unet", {"macs_ratio": 2})])
def test_rounds_end_with_the_widths_of_one_round_and_with_its_multiple(tmp_path, name, asked):
    once, bit_by_bit = (prune(name, tmp_path, **asked, **given) for given in ({}, {"rounds": 3, "schedule": "cubic"}))
    multiple = bit_by_bit.details["round_to"]
    assert multiple == once.details["round_to"] > 1
    assert widths(bit_by_bit) == widths(once)
    assert all(width % multiple == 0 for width in widths(bit_by_bit).values())
    assert all(row["removed"] for row in bit_by_bit.details["rounds"])


def test_multiples_jump_past_no_ratio_that_single_layers_can_meet(tmp_path):
    # The same share of every layer goes, so that all would jump by eight channels at once.
    result = prune("wide", tmp_path, macs_ratio=2.5, scope="layer", round_to=8)
    assert result.details["macs_ratio"] == pytest.approx(2.5, rel=0.03)


def test_layers_with_no_multiple_to_lose_are_named(tmp_path):
    details = prune("resnet", tmp_path, amount=0.5, round_to=8).details
    narrow = {row["name"]: row["reason"] for row in details["too_narrow"]}
    assert set(narrow) == {"stem.0", "blocks.0.conv1.0", "blocks.0.conv2.0"}
    assert narrow["stem.0"] == "its 8 channels are no more than the multiple of 8 that stays"
    assert prune("resnet", tmp_path, amount=0.5, round_to=1).details["too_narrow"] == []


def test_units_of_several_channels_count_with_all_of_them(tmp_path):
    found = widths(prune("grouped", tmp_path, amount=0.5, scope="layer", round_to=8))
    assert found["grouped.0"] % 8 == 0
    assert found["grouped.0"] < 24


def test_excluded_layers_stay_whole_with_all_that_is_coupled_to_them(tmp_path):
    found = widths(prune("resnet", tmp_path, amount=0.5, scope="layer", exclude=["stem.*"]))
    assert (found["stem.0"], found["blocks.0.conv2.0"], found["blocks.0.conv1.0"]) == (8, 8, 4)
    with pytest.raises(NothingToPrune, match="excluded"):
        prune("resnet", tmp_path, exclude=["*"])


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_overrides_set_amounts_of_single_layers(tmp_path, scope):
    overrides = {"blocks.1.conv1.*": 0.75, "blocks.*.conv1.0": 0.0}
    found = widths(prune("resnet", tmp_path, amount=0.5, scope=scope, overrides=overrides))
    assert [found[f"blocks.{place}.conv1.0"] for place in range(3)] == [8, 4, 32]


def test_an_amount_and_a_ratio_exclude_each_other():
    with pytest.raises(ValueError, match="amount and macs_ratio"):
        PruneSpec(method="prune", amount=0.5, macs_ratio=2)


def test_a_spec_reads_back_as_it_was_written():
    for given in ({}, {"amount": 0.3}, {"macs_ratio": 2.0}, {"granularity": "2:4"}):
        spec = PruneSpec(method="prune", **given)
        assert PruneSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert PruneSpec(method="prune").amount == 0.5


class Plain(nn.Module):
    """So few channels that one of them is more than 3 % of what a ratio leaves."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 16), nn.ReLU(), conv(16, 16), nn.ReLU())
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(self.layers(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("criterion", "schedule"),
    [("l1", "cubic"), ("l2", "constant"), ("bn_scale", "cubic"), ("random", "constant"), ("taylor", "cubic")],
)
def test_a_ratio_is_met_behind_several_rounds(tmp_path, criterion, schedule):
    torch.manual_seed(1)
    network = lift(export(Plain(), train=True))
    data = SimpleNamespace(rows=lambda _: 8, gather=lambda *_: ((torch.randn(8, 3, 8, 8),), torch.arange(8)))
    context = Context(network, data, 0, torch.device("cpu"), lambda _: None, tmp_path)
    result = channel.run(
        network,
        PruneSpec(method="prune", criterion=criterion, macs_ratio=2, rounds=3, schedule=schedule),
        context,
    )
    assert count_macs(network) / count_macs(result.network) == pytest.approx(2, rel=0.03)
    assert sum(row["removed"] for row in result.details["rounds"][:2]) > 0
