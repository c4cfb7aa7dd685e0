from dataclasses import replace

import pytest
import torch

from app.domain.errors import TargetUnreachable
from app.domain.job import EventType
from app.domain.steps.prune import PruneSpec
from tests.compression.networks import ResNet, export, make
from workers.compression.checkpoints import Checkpoints
from workers.compression.counting import count_macs
from workers.compression.inference import compute_logits
from workers.compression.lifting import lift
from workers.compression.pruning import prune
from workers.compression.step import Context
from workers.compression.training.rows import split_rows


def spec(**given):
    return PruneSpec(method="prune", **given)


def state(network):
    return network.module.state_dict()


def same(one, other):
    return all(torch.equal(value, state(other)[name]) for name, value in state(one).items())


@pytest.mark.parametrize(
    ("schedule", "removed"),
    # Of 28 in four rounds: 28·(1 − (3/4)³) = 16.2, 28·(1 − (2/4)³) = 24.5, 28·(1 − (1/4)³) = 27.6.
    [("constant", [7, 7, 7, 7]), ("cubic", [16, 8, 4, 0])],
)
def test_the_schedule_says_how_many_channels_go_in_each_round(tmp_path, schedule, removed):
    network = make("mlp")
    context = Context(network, None, 0, torch.device("cpu"), lambda _: None, tmp_path)
    result = prune.run(network, spec(amount=0.5, rounds=4, schedule=schedule), context)
    rows = result.details["rounds"]
    assert [(row["round"], row["removed"]) for row in rows] == list(enumerate(removed, 1))
    assert rows[-1]["parameters"] == sum(value.numel() for value in result.network.module.parameters())
    assert sorted((row["parameters"] for row in rows), reverse=True) == [row["parameters"] for row in rows]


def test_a_ratio_is_approached_by_the_schedule(tmp_path):
    network = lift(export(ResNet(widths=(16, 32, 64))))
    context = Context(network, None, 0, torch.device("cpu"), lambda _: None, tmp_path)
    first, last = prune.run(network, spec(macs_ratio=2, rounds=2, schedule="cubic"), context).details["rounds"]
    whole = count_macs(network)
    assert last["macs"] == pytest.approx(whole / 2, rel=0.03)
    # 7/8 of the half that goes in all.
    assert first["macs"] == pytest.approx(whole * (1 - 7 / 8 / 2), rel=0.03)


@pytest.mark.parametrize("options", [{}, {"scope": "layer"}, {"criterion": "random"}, {"criterion": "wanda"}])
def test_weights_go_round_by_round_and_stay_zero_through_recovery(context, digits_network, options):
    given = {"granularity": "weight", "amount": 0.8} | options
    result = prune.run(digits_network, spec(rounds=3, schedule="cubic", recovery_epochs=1, **given), context)
    whole = prune.run(digits_network, spec(**given), context)
    total = sum(row["weights"] for row in result.details["layers"])
    gone = [sum(row["removed"] for row in result.details["rounds"][:number]) / total for number in (1, 2, 3)]
    final = whole.details["sparsity"]
    assert gone == pytest.approx([final * 19 / 27, final * 26 / 27, final], abs=0.02)
    assert gone[-1] == pytest.approx(result.details["sparsity"], abs=1e-9)
    assert not same(result.network, whole.network)


def accuracy(network, context):
    _, held = split_rows(context.data.rows("train"), context.seed)
    logits = compute_logits(network, context.data, "train", held, context.device)
    return float((logits.argmax(1).numpy() == context.data.labels("train")[held]).mean())


def test_recovery_trains_between_rounds_alone_and_tells_of_it(context, digits_network, events):
    given = {"amount": 0.6, "rounds": 3, "schedule": "cubic", "round_to": 1}
    result = prune.run(digits_network, spec(recovery_epochs=2, recovery_learning_rate=0.05, **given), context)
    first, second, last = result.details["rounds"]
    assert [len(row["recovery"]["epochs"]) for row in (first, second)] == [2, 2]
    assert "recovery" not in last
    metrics = [event.data for event in events if event.type == EventType.METRIC]
    assert [found["step"] for found in metrics if found["name"] == "loss"] == [1, 2, 3, 4]
    fractions = [event.data["fraction"] for event in events if event.type == EventType.PROGRESS]
    assert fractions == sorted(fractions)
    # Three rounds and four epochs, a seventh each.
    assert {round(7 * fraction, 6) for fraction in fractions} >= {1, 2, 3, 4, 5, 6, 7}
    bare = prune.run(digits_network, spec(**given), context)
    assert accuracy(result.network, context) > accuracy(bare.network, context) + 0.1
    assert not result.network.module.training


def test_recovery_learns_from_the_baseline_where_asked_whose_outputs_are_computed_once(context, digits_network, events):
    given = {"amount": 0.6, "rounds": 3, "recovery_epochs": 1}
    distilled = prune.run(digits_network, spec(recovery_method="distill", **given), context)
    said = [event.data["message"] for event in events if event.type == EventType.LOG]
    assert said == ["computing the teacher's outputs on 1293 rows"]
    assert not same(distilled.network, prune.run(digits_network, spec(**given), context).network)


def test_a_round_that_removes_nothing_needs_no_recovery(context, digits_network):
    # 1 of 48 channels: none of it is due before the second round.
    result = prune.run(digits_network, spec(amount=0.02, rounds=2, recovery_epochs=1), context)
    assert [(row["removed"], "recovery" in row) for row in result.details["rounds"]] == [(0, False), (1, False)]


def timeless(value):
    """Leave out what no two runs share."""
    if isinstance(value, dict):
        return {name: timeless(part) for name, part in value.items() if name != "seconds"}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def test_what_is_left_of_a_recovery_takes_in_those_of_later_rounds(context, digits_network, events):
    prune.run(digits_network, spec(amount=0.6, rounds=4, recovery_epochs=2), context)
    told = [event.data for event in events if event.type == EventType.PROGRESS and "left" in event.data]
    # The end of each recovery, of which there are three.
    ends = [data for data in told if data["message"].endswith("epoch 2 of 2")]
    last = {data["message"].split(":")[0]: data["left"] for data in ends}
    # Of channels 0.85, 0.7, 0.55 and at last 0.4 are left, and of an epoch their squares; it is told as of the last.
    sizes = [0.85**2, 0.7**2, 0.55**2, 0.4**2]
    behind = [2 * sum(sizes[1:3]) / sizes[3], 2 * sizes[2] / sizes[3], 0]
    assert [left.seconds / left.epoch_seconds for left in last.values()] == pytest.approx(behind)


class CutOff(Exception):
    """What stands for a kill: nothing behind it runs."""


@pytest.mark.parametrize(
    "options", [{"amount": 0.5}, {"granularity": "weight", "amount": 0.9}], ids=["channel", "weight"]
)
def test_a_recovery_cut_off_goes_on_to_the_same_network(context, digits_network, events, tmp_path, options):
    given = spec(rounds=3, recovery_epochs=2, recovery_method="distill", **options)
    whole = prune.run(digits_network, given, context)

    def progress(event):
        if event.data.get("message", "").startswith("behind round 2 of 3: epoch 2 "):
            raise CutOff

    kept = Checkpoints(tmp_path / "checkpoints", 1, lambda *_: None)
    with pytest.raises(CutOff):
        prune.run(digits_network, given, replace(context, progress=progress, checkpoints=kept))
    names = sorted(path.name for path in kept.folder.iterdir())
    assert names == ["step-01-round-01-epoch-0002.pt", "step-01-round-02-epoch-0001.pt"]
    events.clear()
    torch.manual_seed(99)
    resumed = prune.run(digits_network, given, replace(context, checkpoints=kept))
    assert same(resumed.network, whole.network)
    assert timeless(resumed.details) == timeless(whole.details)
    assert resumed.earlier_seconds > 0
    metrics = [event.data for event in events if event.type == EventType.METRIC]
    assert [found["step"] for found in metrics if found["name"] == "loss"] == [4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": "cubic"}, "schedule needs two rounds"),
        ({"recovery_epochs": 2}, "recovery_epochs needs two rounds"),
        ({"rounds": 2, "recovery_method": "distill"}, "recovery_method needs recovery_epochs"),
        ({"granularity": "2:4", "rounds": 2}, "rounds is for amounts"),
    ],
)
def test_what_would_have_no_effect_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        spec(**given)


def test_a_ratio_out_of_reach_is_told_before_anything_is_trained(context, digits_network, events):
    given = {"macs_ratio": 500, "minimum_channels": 4, "rounds": 3, "recovery_epochs": 1}
    with pytest.raises(TargetUnreachable, match="of 500 was asked for"):
        prune.run(digits_network, spec(**given), context)
    assert not [event for event in events if event.type == EventType.METRIC]


def test_a_ratio_is_met_behind_rounds_that_train(context, digits_network):
    given = {"criterion": "taylor", "macs_ratio": 2, "rounds": 3, "schedule": "cubic", "recovery_epochs": 1}
    result = prune.run(digits_network, spec(**given), context)
    assert count_macs(digits_network) / count_macs(result.network) == pytest.approx(2, rel=0.03)
    assert "recovery" in result.details["rounds"][0]
