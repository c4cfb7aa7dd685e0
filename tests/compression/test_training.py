from dataclasses import replace

import numpy as np
import pytest
import torch

from app.domain.errors import DatasetMismatch, Diverged, RecipeOrder, ValidationFailed
from app.domain.job import EventType
from app.domain.steps.training import FinetuneSpec
from tests.compression.digits import write_network
from workers.compression.datasets import load_dataset
from workers.compression.formats import pt2
from workers.compression.inference import compute_logits
from workers.compression.training import finetune, loop, optimizer, rows
from workers.compression.training.criterion import LabelLoss


class NotFinite(LabelLoss):
    def loss(self, output, _):
        return output.sum() * float("nan")


def spec(**given):
    return FinetuneSpec(method="finetune", **({"epochs": 2} | given))


def state(network):
    return network.module.state_dict()


def same(one, other):
    return all(torch.equal(value, state(other)[name]) for name, value in state(one).items())


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
    metrics = [event.data for event in events if event.type == EventType.METRIC]
    assert [(found["name"], found["step"]) for found in metrics] == [
        (name, epoch) for epoch in (1, 2, 3) for name in ("loss", "learning_rate", "accuracy")
    ]
    fractions = [event.data["fraction"] for event in events if event.type == EventType.PROGRESS]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert [epoch["accuracy"] for epoch in result.details["epochs"]] == [
        found["value"] for found in metrics if found["name"] == "accuracy"
    ]


def test_the_best_epoch_is_kept_and_train_alone_is_read(context, digits_network):
    alone = replace(context, data=replace(context.data, splits={"train": context.data.splits["train"]}))
    result = finetune.run(digits_network, spec(epochs=4, learning_rate=1.0, batch_size=256), alone)
    accuracies = [epoch["accuracy"] for epoch in result.details["epochs"]]
    assert accuracies[result.details["best_epoch"] - 1] == max(accuracies)
    _, held = rows.split_rows(context.data.rows("train"), context.seed)
    logits = compute_logits(result.network, context.data, "train", held, context.device)
    assert (logits.argmax(1).numpy() == context.data.labels("train")[held]).mean() == max(accuracies)


def test_a_loss_that_is_not_finite_is_told_with_its_epoch(context, digits_network):
    with pytest.raises(Diverged, match="epoch 1") as caught:
        loop.fit(digits_network, spec(), context, NotFinite(context.task))
    assert "tenth" in caught.value.hint


def test_a_quantized_network_is_not_trained(context, digits_network):
    with pytest.raises(RecipeOrder):
        finetune.run(replace(digits_network, quantized=True), spec(), context)


def test_norms_and_biases_do_not_decay(digits_network):
    module = digits_network.clone().module
    decayed, spared = optimizer.make_optimizer(module, spec(weight_decay=0.1)).param_groups
    names = {id(value): name for name, value in module.named_parameters()}
    assert {names[id(value)] for value in decayed["params"]} == {"conv1.weight", "conv2.weight", "fc.weight"}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_the_rate_warms_up_and_falls_along_a_cosine():
    rates = [optimizer.learning_rate(step, 100, 2.0) for step in range(100)]
    assert rates[:6] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    # Half of the way from step 5 to step 100 would be step 52.5.
    assert (rates[52] + rates[53]) / 2 == pytest.approx(1.0)
    assert rates[99] < 0.001
    assert optimizer.learning_rate(0, 1, 2.0) == 2.0


def test_held_out_rows_are_a_tenth_and_apart():
    fitted, held = rows.split_rows(100, seed=0)
    assert len(held) == 10
    assert sorted([*fitted, *held]) == list(range(100))
    with pytest.raises(DatasetMismatch, match="2 train rows"):
        rows.split_rows(2, seed=0)


@pytest.mark.parametrize(("batch", "error"), [(2, None), (1, ValidationFailed)])
def test_a_fixed_batch_is_trained_at_that_batch(tmp_path, digits_folder, context, batch, error):
    write_network(tmp_path / "net.pt2", epochs=0, batch=batch)
    network = pt2.load(tmp_path / "net.pt2")
    data = load_dataset(digits_folder / "digits.npz", "npz", network.signature, seed=0)
    fixed = replace(context, data=data, baseline=network)
    if error:
        with pytest.raises(error, match="one row"):
            finetune.run(network, spec(epochs=1), fixed)
    else:
        assert finetune.run(network, spec(epochs=1), fixed).details["train_rows"] == 1293
