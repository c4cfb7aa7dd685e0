import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from app.domain.errors import DatasetMismatch, RecipeOrder, ValidationFailed
from app.domain.job import EventType
from tests.compression.digits import write_network
from tests.compression.training.runs import distance, same, spec, without_noise
from workers.compression.datasets import load_dataset
from workers.compression.formats import pt2
from workers.compression.inference import compute_logits
from workers.compression.training import finetune, rows
from workers.compression.training.criterion import Batch, LabelLoss


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_untrained_network_learns(tmp_path, context, optimizer):
    write_network(tmp_path / "net.pt2", epochs=0)
    network = pt2.load(tmp_path / "net.pt2")
    rate = {"sgd": 0.1, "adamw": 0.01}[optimizer]
    result = finetune.run(network, spec(epochs=4, learning_rate=rate, optimizer=optimizer), context)
    rows = np.arange(360)
    logits = compute_logits(result.network, context.data, "validation", rows, context.device)
    assert (logits.argmax(1).numpy() == context.data.labels("validation")).mean() > 0.8
    assert not result.network.module.training
    assert same(network, pt2.load(tmp_path / "net.pt2"))


def test_the_seed_decides(context, digits_network):
    torch.manual_seed(1)
    one = finetune.run(digits_network, spec(), context).network
    torch.manual_seed(2)
    assert same(one, finetune.run(digits_network, spec(), context).network)
    assert not same(one, finetune.run(digits_network, spec(), replace(context, seed=1)).network)


def test_every_epoch_tells_loss_rate_and_accuracy(context, digits_network, events):
    result = finetune.run(digits_network, spec(epochs=3, learning_rate=0.02), context)
    # On a slow machine losses are told within epochs as well.
    told = [event.data for event in events if event.type == EventType.METRIC]
    metrics = [found for found in told if found["name"] != "batch_loss"]
    assert [(found["name"], found["step"]) for found in metrics] == [
        (name, epoch) for epoch in (1, 2, 3) for name in ("loss", "learning_rate", "accuracy")
    ]
    fractions = [event.data["fraction"] for event in events if event.type == EventType.PROGRESS]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    curves = result.details["epochs"]
    for name in ("loss", "learning_rate", "accuracy"):
        assert [epoch[name] for epoch in curves] == [found["value"] for found in metrics if found["name"] == name]
    assert [epoch["epoch"] for epoch in curves] == [1, 2, 3]
    assert all(epoch["seconds"] > 0 and epoch["held_out_loss"] > 0 for epoch in curves)


def test_the_best_epoch_is_kept_and_train_alone_is_read(context, digits_network):
    alone = replace(context, data=replace(context.data, splits={"train": context.data.splits["train"]}))
    result = finetune.run(digits_network, spec(epochs=4, learning_rate=1.0, batch_size=256), alone)
    accuracies = [epoch["accuracy"] for epoch in result.details["epochs"]]
    assert accuracies[result.details["best_epoch"] - 1] == max(accuracies)
    _, held = rows.split_rows(context.data.rows("train"), context.seed)
    logits = compute_logits(result.network, context.data, "train", held, context.device)
    assert (logits.argmax(1).numpy() == context.data.labels("train")[held]).mean() == max(accuracies)


def test_a_quantized_network_is_not_trained(context, digits_network):
    with pytest.raises(RecipeOrder):
        finetune.run(replace(digits_network, quantized=True), spec(), context)


def test_both_parts_of_train_have_rows_that_count():
    plain = rows.split_rows(300, 0)
    assert all(map(np.array_equal, rows.split_rows(300, 0, np.ones(300, bool)), plain))
    fitted, held = plain
    for chosen, least in ((fitted[:2], 1), (fitted[:40], 4), (held[:20], 2), (held[:2], 1)):
        counting = np.zeros(300, bool)
        counting[chosen] = True
        parts = rows.split_rows(300, 0, counting)
        assert [len(part) for part in parts] == [270, 30]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(300))
        assert counting[parts[1]].sum() == least
        assert all(map(np.array_equal, rows.split_rows(300, 0, counting), parts))
    few = np.zeros(300, bool)
    few[:299] = True
    assert few[rows.split_rows(300, 0, few)[0]].any()
    for alone in (0, 1):
        with pytest.raises(DatasetMismatch, match=f"{alone} of the 300 train rows has a label that counts"):
            rows.split_rows(300, 0, np.arange(300) < alone)


def test_held_out_rows_are_a_tenth_and_apart():
    fitted, held = rows.split_rows(100, seed=0)
    assert len(held) == 10
    assert sorted([*fitted, *held]) == list(range(100))
    with pytest.raises(DatasetMismatch, match="2 train rows"):
        rows.split_rows(2, seed=0)


def test_batch_norm_asks_for_batches_of_more_than_the_one_row_that_a_step_asks_for(context, digits_network):
    with pytest.raises(ValidationFailed, match="one row") as caught:
        finetune.run(digits_network, spec(epochs=1, batch_size=1), context)
    assert "batch_size of 2" in caught.value.hint


@pytest.mark.parametrize(("batch", "error"), [(2, None), (1, ValidationFailed)])
def test_a_fixed_batch_is_trained_at_that_batch(tmp_path, digits_folder, context, batch, error):
    write_network(tmp_path / "net.pt2", epochs=0, batch=batch)
    network = pt2.load(tmp_path / "net.pt2")
    data = load_dataset(digits_folder / "digits.npz", "npz", network.signature, seed=0)
    fixed = replace(context, data=data, baseline=network)
    if error:
        with pytest.raises(error, match="one row") as caught:
            finetune.run(network, spec(epochs=1), fixed)
        assert "dynamic batch" in caught.value.hint
    else:
        assert finetune.run(network, spec(epochs=1), fixed).details["train_rows"] == 1293


def test_early_stopping_waits_for_held_out_rows_to_gain(context, digits_network, events):
    # A rate this small moves no weight in float32, so that no epoch is better than the first.
    given = {"epochs": 8, "learning_rate": 1e-30, "schedule": "constant", "weight_decay": 0}
    still = digits_network.clone()
    for layer in (still.module.bn1, still.module.bn2):
        layer.momentum = 0.0
    result = finetune.run(still, spec(**given, early_stopping=2), context)
    assert [epoch["epoch"] for epoch in result.details["epochs"]] == [1, 2, 3]
    assert result.details["stopped_early"]
    assert result.details["best_epoch"] == 1
    assert "stopped_early" not in finetune.run(still, spec(**(given | {"epochs": 2})), context).details


def test_accumulated_batches_make_the_update_of_one_large_batch(context, digits_network):
    given = {"epochs": 1, "learning_rate": 0.01, "schedule": "constant", "warm_up_epochs": 0}

    def trained(**more):
        network = digits_network.clone()
        without_noise(network.module)
        return finetune.run(network, spec(**given, **more), context)

    # 1293 rows: 20 batches of 64, and 10 of 128 over the same 1280.
    whole, parts = trained(batch_size=128).network, trained(batch_size=64, accumulate=2).network
    alone = trained(batch_size=64).network
    assert distance(whole, parts) < 1e-3 * distance(whole, alone)


def test_clipping_bounds_the_update(context, digits_network):
    given = {"epochs": 1, "optimizer": "sgd", "momentum": 0, "weight_decay": 0, "schedule": "constant"}
    given |= {"learning_rate": 1.0, "warm_up_epochs": 0, "batch_size": 1293}
    free = finetune.run(digits_network, spec(**given), context).network
    bound = finetune.run(digits_network, spec(**given, clip_norm=1e-3), context).network
    assert distance(digits_network, bound) == pytest.approx(1e-3, rel=1e-3)
    assert distance(digits_network, free) > 2e-3


def test_label_smoothing_is_that_of_cross_entropy(context):
    logits, labels = torch.randn(7, 10, generator=torch.manual_seed(0)), torch.arange(7)
    batch = Batch((), labels, np.arange(7))
    ours = LabelLoss(context.task, smoothing=0.2).loss(logits, batch)
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=0.2))
    # Worked by hand: two classes, logits 0 and ln 3, so that p = 1/4 and 3/4.
    two = LabelLoss(context.task, smoothing=0.2).loss(
        torch.tensor([[0.0, math.log(3)]]), Batch((), torch.tensor([1]), np.arange(1))
    )
    assert float(two) == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


def test_losses_are_told_within_long_epochs(context, digits_network, events, monkeypatch):
    monkeypatch.setattr("workers.compression.training.pace.LOSS_SECONDS", 0.0)
    finetune.run(digits_network, spec(epochs=2), context)
    told = [event.data for event in events if event.type == EventType.METRIC and event.data["name"] == "batch_loss"]
    assert [found["step"] for found in told] == sorted({found["step"] for found in told})
    assert told[0]["step"] < 20 < told[-1]["step"] <= 40
    assert all(0 < found["value"] < 3 for found in told)
