"""Whatever the amount, the criterion's choice and the network."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.errors import NoChange
from app.domain.steps.prune import PruneSpec
from tests.compression.networks import make
from tests.compression.pruning.test_architectures import find
from workers.compression.pruning import channel
from workers.compression.pruning.groups import find_groups
from workers.compression.step import Context

MADE = ("densenet", "mlp", "mobilenet", "resnet_option_a", "shufflenet", "unet", "vit")
FOUND = ("encoder", "llama_block", "towers")
networks = st.sampled_from([*MADE, *FOUND]).map(lambda name: make(name) if name in MADE else find(name)[0])
bounded = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def prune(network, folder, seed, **options):
    context = Context(network, None, seed, torch.device("cpu"), lambda _: None, folder)
    spec = PruneSpec(method="prune", criterion="random", round_to=1, **options)
    return channel.run(network, spec, context)


@bounded
@given(network=networks, amount=st.floats(0.01, 0.95), seed=st.integers(0, 99))
def test_a_global_amount_hits_its_share(tmp_path, network, amount, seed):
    groups = find_groups(network)
    total = len(groups.units)
    due = round(amount * total)
    try:
        details = prune(network, tmp_path, seed, amount=amount).details
    except NoChange:
        assert due == 0
        return
    assert details["prunable_channels"] == total
    # What is short of it is held by dimensions that are down to their last channel.
    assert details["removed_channels"] == due or due > details["removed_channels"] >= total - len(groups.lines)


@bounded
@given(network=networks, amount=st.floats(0, 0.95), seed=st.integers(0, 99))
def test_no_amount_empties_a_layer_or_touches_the_network_it_was_given(tmp_path, network, amount, seed):
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    graph = str(network.module.graph)
    try:
        result = prune(network, tmp_path, seed, amount=0.5, overrides={"*": amount})
    except NoChange:
        # Of fewer channels than 1 / amount none goes.
        assert amount < 0.5
    else:
        for name, value in result.network.module.state_dict().items():
            assert value.numel() > 0, name
        rows = result.details["layers"]
        assert all(0 < row["channels_after"] <= row["channels_before"] for row in rows)
        assert any(row["channels_after"] < row["channels_before"] for row in rows)
    after = network.module.state_dict()
    assert str(network.module.graph) == graph
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
