from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from app.domain.errors import Diverged, OutOfMemory
from app.domain.job import EventType
from tests.compression.digits import write_network
from tests.compression.training.runs import distance, same, spec, without_noise
from workers.compression.datasets import load_dataset
from workers.compression.formats import pt2
from workers.compression.training import finetune
from workers.compression.training.criterion import LabelLoss
from workers.compression.training.loop import fit
from workers.compression.training.mode import takes_channels_last

RATE = 0.03


class NotFinite(LabelLoss):
    """Is not finite in some batches, counted over all tries."""

    def __init__(self, task, bad):
        super().__init__(task)
        object.__setattr__(self, "bad", bad)
        object.__setattr__(self, "heard", [])

    def loss(self, output, batch):
        self.heard.append(len(batch.rows))
        loss = super().loss(output, batch)
        return loss * float("nan") if self.bad(len(self.heard)) else loss


def warnings(events):
    return [
        event.data["message"] for event in events if event.type == EventType.LOG and event.data["level"] == "warning"
    ]


def test_a_loss_that_is_never_finite_is_told_with_its_epoch_after_one_more_try(context, digits_network, events):
    with pytest.raises(Diverged, match=r"epoch 1 at a peak learning rate of 0\.001") as caught:
        fit(digits_network, spec(), context, NotFinite(context.task, lambda _: True))
    assert "tenth" in caught.value.hint
    assert len(warnings(events)) == 1
    assert "going on from epoch 0 at a tenth of the rate" in warnings(events)[0]


def test_an_epoch_that_diverges_is_trained_again_at_a_tenth(context, digits_network, events):
    # Twenty batches an epoch: the second one diverges in its fifth batch, and no try after.
    result = fit(digits_network, spec(epochs=3), context, NotFinite(context.task, lambda heard: heard == 25))
    (setback,) = result.details["setbacks"]
    assert (setback["epoch"], setback["reason"], setback["learning_rate"]) == (2, "diverged", pytest.approx(0.001))
    assert len(warnings(events)) == 1
    curves = result.details["epochs"]
    assert [epoch["epoch"] for epoch in curves] == [1, 2, 3]
    plain = finetune.run(digits_network, spec(epochs=3), context).details["epochs"]
    assert curves[0]["loss"] == plain[0]["loss"]
    assert [epoch["learning_rate"] for epoch in curves[1:]] == pytest.approx(
        [epoch["learning_rate"] / 10 for epoch in plain[1:]]
    )


def test_the_try_begins_where_the_epoch_began(context, digits_network):
    # What was trained before the loss was found to be no number leaves no trace, its random numbers included.
    early, late = (
        fit(
            digits_network,
            spec(epochs=2, mixup=0.3),
            context,
            NotFinite(context.task, lambda heard, at=at: heard == at),
        )
        for at in (41, 79)
    )
    assert same(early.network, late.network)


def test_a_rate_that_is_too_high_is_mended(context, digits_network):
    bare = digits_network.clone()
    without_noise(bare.module)
    result = fit(bare, spec(epochs=2, learning_rate=RATE), context, Squares(context.task))
    assert result.details["setbacks"][0]["learning_rate"] == pytest.approx(RATE / 10)
    assert all(torch.isfinite(value).all() for value in result.network.module.parameters())
    first, last = result.details["epochs"]
    assert last["loss"] < first["loss"]


class Squares(LabelLoss):
    """Squared errors of the outputs, which no norm before them bounds."""

    def loss(self, output, batch):
        return (output - 5 * F.one_hot(batch.labels, 10)).square().mean()


def short_of_memory(network, rows):
    """Give a copy that a batch of more rows than these is too much for, while it trains."""
    short = network.clone()

    def refuse(module, inputs):
        if module.training and len(inputs[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    short.module.conv1.register_forward_pre_hook(refuse)
    return short


def test_batches_that_need_too_much_memory_are_cut_and_their_gradients_added(context, digits_network, events):
    calm = digits_network.clone()
    without_noise(calm.module)
    given = {"epochs": 1, "learning_rate": 0.02, "mixup": 0.4, "augment": {"crop": 1}}
    whole = finetune.run(calm, spec(**given), context)
    result = finetune.run(short_of_memory(calm, 20), spec(**given), context)
    # 64 rows, then 32, then 16.
    setbacks = [(found["reason"], found["batch_size"]) for found in result.details["setbacks"]]
    assert setbacks == [("out_of_memory", 32), ("out_of_memory", 16)]
    assert "an update now adds up 4 pieces of 16 rows" in warnings(events)[-1]
    assert distance(whole.network, result.network) < 1e-4 * distance(whole.network, calm)
    assert result.details["epochs"][0]["loss"] == pytest.approx(whole.details["epochs"][0]["loss"], rel=1e-5)


class Narrow(nn.Conv2d):
    """Takes more memory than there is for a batch of more than twenty rows, while it trains."""

    def forward(self, x):
        if self.training and len(x) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(x)


def test_batches_are_cut_where_the_choice_of_a_mode_needs_too_much_memory(context, digits_network, events):
    short = digits_network.clone()
    layer = short.module.conv1
    short.module.conv1 = Narrow(1, 16, 3, padding=1, bias=False)
    short.module.conv1.load_state_dict(layer.state_dict())
    result = finetune.run(short, spec(epochs=1, compile="auto"), context)
    setbacks = [(found["epoch"], found["batch_size"]) for found in result.details["setbacks"]]
    assert setbacks == [(1, 32), (1, 16)]
    assert any("not compiled: the training takes about" in str(event.data.get("message")) for event in events)


def test_channels_last_are_not_given_up_for_want_of_memory():
    module = nn.Sequential(Narrow(1, 4, 3), nn.Flatten())
    module[0].training = True
    module.eval = lambda: module
    with pytest.raises(torch.OutOfMemoryError):
        takes_channels_last(module, (torch.zeros(32, 1, 8, 8),))
    assert takes_channels_last(module, (torch.zeros(16, 1, 8, 8),))


def test_no_batch_norm_is_left_with_one_row(context, digits_network):
    with pytest.raises(OutOfMemory, match="64 rows in 32 pieces"):
        finetune.run(short_of_memory(digits_network, 1), spec(epochs=1), context)


def test_a_fixed_batch_cannot_be_cut(tmp_path, digits_folder, context):
    write_network(tmp_path / "net.pt2", epochs=0, batch=8)
    network = pt2.load(tmp_path / "net.pt2")
    data = load_dataset(digits_folder / "digits.npz", "npz", network.signature, seed=0)
    with pytest.raises(OutOfMemory, match="8 rows in 1 pieces") as caught:
        finetune.run(short_of_memory(network, 4), spec(epochs=1), replace(context, data=data, baseline=network))
    assert "dynamic batch" in caught.value.hint
