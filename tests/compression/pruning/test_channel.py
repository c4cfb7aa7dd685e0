import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

from app.domain.errors import NoChange, NothingToPrune
from app.domain.steps.prune import PruneSpec
from tests.compression.networks import ZOO, make
from workers.compression.lifting import lift
from workers.compression.pruning import channel
from workers.compression.step import Context


def prune(network, folder, **options):
    messages = []
    context = Context(
        baseline=network, data=None, seed=0, device=torch.device("cpu"), progress=messages.append, folder=folder
    )
    return channel.run(network, PruneSpec(method="prune", **options), context), messages


def weigh(network):
    return sum(parameter.numel() for parameter in network.module.parameters())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(ZOO)),
    amount=st.floats(0.01, 0.95),
    scope=st.sampled_from(["global", "layer"]),
    criterion=st.sampled_from(["l1", "l2", "random"]),
    rounds=st.integers(1, 3),
)
def test_any_amount_leaves_a_network_that_works(tmp_path, name, amount, scope, criterion, rounds):
    network = make(name)
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    x = torch.randn(2, 3, 8, 8)
    try:
        result, _ = prune(network, tmp_path, amount=amount, scope=scope, criterion=criterion, rounds=rounds)
    except NoChange:
        assert amount < 0.3
    else:
        assert weigh(result.network) < weigh(network)
        assert all(min(value.shape, default=1) > 0 for value in result.network.module.state_dict().values())
        with torch.no_grad():
            assert result.network.module(x).shape == network.module(x).shape
        assert result.details["removed_channels"] <= round(amount * result.details["prunable_channels"]) + len(before)
    after = network.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_amount_is_a_share_of_the_prunable_channels(tmp_path, rounds):
    result, messages = prune(make("mlp"), tmp_path, amount=0.5, rounds=rounds)
    assert result.details["prunable_channels"] == 56
    assert result.details["removed_channels"] == 28
    assert [message.data["fraction"] for message in messages] == [place / rounds for place in range(1, rounds + 1)]


@pytest.mark.parametrize("rounds", [1, 4])
def test_scope_layer_takes_the_same_share_of_each_group(tmp_path, rounds):
    result, _ = prune(make("resnet"), tmp_path, amount=0.25, scope="layer", rounds=rounds)
    rows = result.details["layers"]
    assert len(rows) == 9
    assert all(row["channels_after"] == 0.75 * row["channels_before"] for row in rows)
    assert result.details["groups_touched"] == 6
    assert result.details["unprunable"] == [{"name": "fc", "reason": "its channels are the network's outputs"}]


def test_the_least_important_channels_go(tmp_path):
    network = make("mlp").clone()
    with torch.no_grad():
        network.module.get_parameter("layers.2.weight")[::2] *= 1e-3
        bias = network.module.get_parameter("layers.1.bias")
        bias.copy_(torch.arange(32.0))
    result, _ = prune(network, tmp_path, amount=16 / 56)
    assert result.network.module.get_parameter("layers.1.bias").tolist() == list(range(1, 32, 2))


def test_the_same_network_is_pruned_the_same_way(tmp_path):
    one, two = (prune(make("mobilenet"), tmp_path, amount=0.4)[0].network.module.state_dict() for _ in range(2))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_unknown_operators_are_reported(tmp_path):
    result, _ = prune(make("odd"), tmp_path, amount=0.5)
    assert result.details["unknown_operators"] == [{"node": "renorm", "op": "renorm"}]


def test_an_amount_that_rounds_to_nothing_is_an_error(tmp_path):
    with pytest.raises(NoChange, match="56 prunable channels"):
        prune(make("mlp"), tmp_path, amount=0.001)


def test_a_network_without_prunable_channels_is_refused_with_the_reasons(tmp_path):
    exported = torch.export.export(nn.Linear(3, 4), (torch.randn(2, 3),), dynamic_shapes=({0: Dim("batch")},))
    wrapped = torch.export.export(
        nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)), (torch.randn(2, 3),), dynamic_shapes=({0: Dim("batch")},)
    )
    with pytest.raises(NothingToPrune):
        prune(lift(exported), tmp_path)
    with pytest.raises(NothingToPrune, match=r"0: 'softmax' \(softmax\) works across its channels"):
        prune(lift(wrapped), tmp_path)


@pytest.mark.parametrize(
    ("asked", "rounds", "left"),
    [
        ({"amount": 0.9453125}, 3, [4, 4, 1]),
        ({"amount": 0.5, "overrides": {"stem.*": 0.75, "last.*": 0.0}}, 5, [4, 12, 12]),
    ],
)
def test_a_layer_down_to_its_last_channel_couples_no_others_between_rounds(tmp_path, asked, rounds, left):
    # With one input left to each of its groups the grouped convolution is a depthwise one: other groups of channels.
    given = {"scope": "layer", "criterion": "l1", "rounds": rounds} | asked
    details = prune(make("grouped"), tmp_path, **given)[0].details
    assert [row["channels_after"] for row in details["layers"]] == left
    assert all(row["removed"] for row in details["rounds"])
