from dataclasses import replace

import numpy as np
import pytest
import torch

from app.domain.errors import DatasetMismatch, NoSensitivity, RecipeOrder
from app.domain.job import EventType
from app.domain.steps.prune import PruneSpec
from tests.compression.networks import make
from workers.compression.checkpoints import Checkpoints
from workers.compression.counting import count_macs
from workers.compression.inference import compute_logits
from workers.compression.pruning import prune
from workers.compression.pruning.sensitivity import judging_rows, measure

JOB = "job_1"


def spec(**given):
    return PruneSpec(method="prune", **given)


def analysis(**given):
    return spec(analyze=True, **given)


@pytest.fixture(scope="module")
def tables(digits_network, digits_data, tmp_path_factory):
    """Give the table of each granularity."""
    from workers.compression.step import Context

    context = Context(
        digits_network, digits_data, 0, torch.device("cpu"), lambda _: None, tmp_path_factory.mktemp("scratch")
    )
    return {name: measure(digits_network, analysis(granularity=name), context) for name in ("channel", "weight")}


@pytest.fixture
def informed(context, tables):
    return {name: replace(context, sensitivities={JOB: table}) for name, table in tables.items()}


def accuracy(network, data, split="validation"):
    logits = compute_logits(network, data, split, np.arange(data.rows(split)), torch.device("cpu"))
    return float((logits.argmax(1).numpy() == data.labels(split)).mean())


def removed(result, name):
    row = next(row for row in result.details["layers"] if row["name"] == name)
    return row["channels_before"] - row["channels_after"]


@pytest.mark.parametrize("granularity", ["channel", "weight"])
def test_each_measurement_is_that_of_the_network_with_only_that_group_pruned(
    context, digits_network, tables, granularity
):
    table = tables[granularity]
    groups = {"channel": {"conv1": 16, "conv2": 32}, "weight": {"conv1": 144, "conv2": 4608, "fc": 320}}[granularity]
    assert {group.layers[0]: group.size for group in table.groups} == groups
    assert (table.split, table.rows, table.complete, table.unmeasured) == ("calibration", 1437, True, ())
    assert table.value == accuracy(digits_network, context.data, "calibration")
    for group in table.groups:
        assert len(group.measurements) == 5
        found = group.measurements[2]
        assert found.amount == found.removed / group.size == 0.5
        others = [name for name in groups if name != group.layers[0]]
        alone = spec(granularity=granularity, amount=0.5, scope="layer", exclude=others)
        pruned = prune.run(digits_network, alone, context).network
        assert found.value == accuracy(pruned, context.data, "calibration")
        assert found.drop == pytest.approx(table.value - found.value)


def test_groups_have_the_names_that_layers_show(context):
    from workers.compression.inspection import group_layers

    network = make("resnet")
    table = measure_zoo(network, context)
    shown = {}
    for layer in group_layers(network):
        if layer.group and layer.op != "batch_norm":
            shown.setdefault(layer.group, set()).add(layer.name)
    assert {group.group: set(group.layers) for group in table.groups} == shown
    assert all(0 < found.amount < 0.95 for group in table.groups for found in group.measurements)


def measure_zoo(network, context):
    """Measure a network of the zoo on rows drawn at random."""
    from workers.compression.datasets import Dataset, Split

    generator = np.random.default_rng(0)
    rows = Split(
        (generator.normal(size=(32, 3, 8, 8)).astype(np.float32),), generator.integers(0, 10, 32), np.arange(32)
    )
    return measure(network, analysis(), replace(context, data=Dataset({"train": rows}, (torch.float32,))))


def test_validation_rows_choose_nothing(context, digits_network, tables):
    splits = {name: split for name, split in context.data.splits.items() if name != "validation"}
    found = measure(digits_network, analysis(), replace(context, data=replace(context.data, splits=splits)))
    assert found.groups == tables["channel"].groups
    only = {"validation": context.data.splits["validation"]}
    with pytest.raises(DatasetMismatch, match="no labelled train or calibration"):
        measure(digits_network, analysis(), replace(context, data=replace(context.data, splits=only)))


def test_train_rows_judge_where_calibration_has_no_labels(context):
    splits = context.data.splits
    bare = replace(context.data, splits={**splits, "calibration": replace(splits["calibration"], labels=None)})
    assert judging_rows(bare, 0)[0] == "train"
    split, rows = judging_rows(context.data, 0)
    assert (split, rows.tolist()) == ("calibration", list(range(1437)))


def test_a_budget_that_is_used_up_leaves_a_table_that_says_so(context, digits_network, events, tmp_path):
    # As if an earlier attempt had used all of its time but for one measurement that took long.
    kept = Checkpoints(tmp_path / "checkpoints", 1, context.log)
    state = {"done": 1, "seconds": 9.0, "longest": 8.0, "found": {"g1": [[8, 0.5, 1.0]], "g2": []}}
    kept.save(1, state, finished=False)
    table = measure(digits_network, analysis(budget_seconds=10), replace(context, checkpoints=kept))
    assert (table.complete, table.unmeasured) == (False, ("g2",))
    assert [(found.removed, found.value) for found in table.groups[0].measurements] == [(8, 0.5)]
    said = [event.data["message"] for event in events if event.type == EventType.LOG]
    assert said[-1] == "the budget is used up after 1 of 10 measurements"


class CutOff(Exception):
    """What stands for a kill: nothing behind it runs."""


def test_an_analysis_cut_off_goes_on_to_the_same_table(context, digits_network, events, tables, tmp_path):
    def progress(event):
        if event.type == EventType.PROGRESS and event.data["message"].startswith("4 of 10"):
            raise CutOff

    kept = Checkpoints(tmp_path / "checkpoints", 1, lambda *_: None)
    with pytest.raises(CutOff):
        measure(digits_network, analysis(), replace(context, progress=progress, checkpoints=kept))
    events.clear()
    table = measure(digits_network, analysis(), replace(context, checkpoints=kept))
    assert table.groups == tables["channel"].groups
    fractions = [event.data["fraction"] for event in events if event.type == EventType.PROGRESS]
    assert fractions == pytest.approx([place / 10 for place in range(5, 11)], abs=0.02)


def test_a_table_moves_channels_to_where_accuracy_suffers_least(context, informed, digits_network):
    plain = prune.run(digits_network, spec(amount=0.2), context)
    chosen = prune.run(digits_network, spec(amount=0.2, sensitivity=JOB), informed["channel"])
    assert chosen.details["removed_channels"] == plain.details["removed_channels"] == 10
    assert (removed(chosen, "conv1"), removed(chosen, "conv2")) == (0, 10)
    assert accuracy(chosen.network, context.data) > accuracy(plain.network, context.data) + 0.3
    told = {row["layers"][0]: row["amount"] for row in chosen.details["sensitivity"]}
    assert told == {"conv1": 0, "conv2": 10 / 32}


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_ratio_holds_for_all_groups_together(context, informed, digits_network, rounds):
    given = spec(macs_ratio=1.5, sensitivity=JOB, rounds=rounds, schedule="cubic" if rounds > 1 else "constant")
    result = prune.run(digits_network, given, informed["channel"])
    assert count_macs(digits_network) / count_macs(result.network) == pytest.approx(1.5, rel=0.03)
    assert removed(result, "conv2") / 32 > removed(result, "conv1") / 16
    uniform = prune.run(digits_network, spec(macs_ratio=1.5, scope="layer"), context)
    assert accuracy(result.network, context.data) > accuracy(uniform.network, context.data)


@pytest.mark.parametrize("rounds", [1, 3])
def test_weights_go_by_the_table_of_weights(informed, digits_network, rounds):
    given = spec(granularity="weight", amount=0.4, sensitivity=JOB, rounds=rounds)
    result = prune.run(digits_network, given, informed["weight"])
    assert result.details["sparsity"] == pytest.approx(0.4, abs=0.001)
    shares = {row["name"]: row["zeros_after"] / row["weights"] for row in result.details["layers"]}
    assert shares["conv1"] < 0.15
    assert 0.35 < shares["conv2"] < shares["fc"]
    told = {row["layers"][0]: row["amount"] for row in result.details["sensitivity"]}
    assert told == shares


def test_an_amount_of_a_layer_s_own_and_a_floor_hold_beside_a_table(informed, digits_network):
    own = spec(amount=0.25, sensitivity=JOB, overrides={"conv1": 0.5})
    result = prune.run(digits_network, own, informed["channel"])
    assert (removed(result, "conv1"), removed(result, "conv2")) == (8, 8)
    floor = spec(amount=0.5, sensitivity=JOB, minimum_channels=14)
    result = prune.run(digits_network, floor, informed["channel"])
    # What the floor of one holds back goes from the other up to its own.
    assert (removed(result, "conv1"), removed(result, "conv2")) == (2, 18)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"sensitivity": "job_2"}, "no table of job_2"),
        ({"sensitivity": JOB, "granularity": "weight"}, "is of channel by l2, the step of weight by l2"),
        ({"sensitivity": JOB, "criterion": "l1"}, "the step of channel by l1"),
    ],
)
def test_a_table_of_something_else_is_refused(informed, digits_network, step, message):
    with pytest.raises(NoSensitivity, match=message):
        prune.run(digits_network, spec(**step), informed["channel"])


def test_a_table_of_another_network_is_refused(informed):
    for granularity in ("channel", "weight"):
        with pytest.raises(NoSensitivity, match="layers"):
            prune.run(make("mlp"), spec(granularity=granularity, sensitivity=JOB), informed[granularity])


def test_an_analysis_is_no_step(context, digits_network):
    with pytest.raises(RecipeOrder, match="changes nothing"):
        prune.run(digits_network, analysis(), context)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"analyze": True, "amount": 0.5}, "give no amount"),
        ({"analyze": True, "rounds": 2}, "give no rounds"),
        ({"analyze": True, "sensitivity": JOB}, "give no sensitivity"),
        ({"analyze": True, "granularity": "2:4"}, "analyze is for amounts"),
        ({"granularity": "2:4", "sensitivity": JOB}, "sensitivity is for amounts"),
        ({"budget_seconds": 5}, "needs analyze"),
        ({"sensitivity": JOB, "scope": "layer"}, "give one of them"),
    ],
)
def test_what_contradicts_itself_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        spec(**given)


def test_an_analysis_reads_back_as_it_was_written():
    given = analysis(criterion="taylor", budget_seconds=5)
    assert PruneSpec.model_validate(given.model_dump(mode="json")) == given
    assert given.amount is None
