from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from app.domain.errors import DatasetMismatch, NothingToPrune
from app.domain.steps.prune import PruneSpec
from tests.compression.networks import export, make
from workers.compression.lifting import lift
from workers.compression.pruning import channel
from workers.compression.pruning.groups import find_groups
from workers.compression.pruning.scoring import TAYLOR_BATCH, TAYLOR_ROWS, scorable, score, tensor_of


def score_all(network, criterion, context):
    groups = find_groups(network)
    units = scorable(network, groups, criterion)
    return groups, units, score(network, groups, units, criterion, context)


def loss_with(network, scale, place, inputs, labels):
    """Give the loss with one filter of ``conv1`` scaled."""
    scaled = network.clone()
    with torch.no_grad():
        scaled.module.conv1.weight[place] *= scale
        return float(F.cross_entropy(scaled.module.double()(inputs.double()), labels))


def test_taylor_is_how_the_loss_changes_with_the_scale_of_a_filter(context, digits_network):
    groups, units, scores = score_all(digits_network, "taylor", context)
    rows = np.random.default_rng(0).permutation(context.data.rows("train"))[:TAYLOR_ROWS]
    slow, step = np.zeros(16), 1e-4
    for start in range(0, len(rows), TAYLOR_BATCH):
        (inputs,), labels = context.data.gather("train", rows[start : start + TAYLOR_BATCH])
        for place in range(16):
            up, down = (loss_with(digits_network, scale, place, inputs, labels) for scale in (1 + step, 1 - step))
            slow[place] += abs(up - down) / (2 * step)
    mine = next(producer.labels for producer in groups.producers if producer.layer == "conv1")
    assert np.allclose(scores[np.searchsorted(units, mine)], slow / slow.mean(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("emptied", [False, True])
def test_taylor_needs_train_rows(context, digits_network, emptied):
    splits = {"validation": context.data.splits["validation"]}
    if emptied:
        splits["train"] = replace(context.data.splits["train"], order=np.zeros(0, np.int64))
    data = replace(context.data, splits=splits)
    with pytest.raises(DatasetMismatch, match="no train rows"):
        score_all(digits_network, "taylor", replace(context, data=data))


@pytest.mark.parametrize(
    ("criterion", "magnitude"), [("l1", lambda w: w.abs().mean()), ("l2", lambda w: w.square().mean().sqrt())]
)
def test_magnitude_is_the_mean_over_the_tensors_that_a_channel_owns(context, digits_network, criterion, magnitude):
    groups, units, scores = score_all(digits_network, criterion, context)
    parts = {name: value.detach().double() for name, value in digits_network.module.named_parameters()}
    for layer, scales, reader in (("conv1", "bn1", "conv2"), ("conv2", "bn2", "fc")):
        slow = []
        # Batch norm divides by the scale of the filters, so that they say nothing.
        for tensor in (parts[f"{scales}.weight"], parts[f"{reader}.weight"].transpose(0, 1)):
            found = np.array([float(magnitude(part)) for part in tensor])
            slow.append(found / found.mean())
        mine = next(producer.labels for producer in groups.producers if producer.layer == layer)
        assert np.allclose(scores[np.searchsorted(units, mine)], np.mean(slow, axis=0))


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_the_scale_that_a_batch_norm_takes_out_again_changes_no_magnitude(context, digits_network, criterion):
    scaled = digits_network.clone()
    with torch.no_grad():
        scaled.module.conv1.weight[3] *= 50
        scaled.module.bn1.running_mean[3] *= 50
        scaled.module.bn1.running_var[3] *= 2500
    (x,), _ = context.data.gather("validation", np.arange(50))
    assert torch.allclose(scaled.module(x), digits_network.module(x), atol=1e-2)
    assert np.allclose(score_all(scaled, criterion, context)[2], score_all(digits_network, criterion, context)[2])


def test_a_tensor_counts_once_however_much_of_it_a_channel_holds(context):
    flat = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Flatten(), nn.Linear(256, 5))
    network = lift(export(flat))
    groups, units, scores = score_all(network, "l2", context)
    filters = tensor_of(network, "0.weight").detach().double().flatten(1).square().mean(1).sqrt()
    # The linear layer reads 64 positions of each channel.
    reading = tensor_of(network, "2.weight").detach().double().square().mean(0).sqrt().view(4, 64).mean(1)
    slow = (filters / filters.mean() + reading / reading.mean()) / 2
    assert np.allclose(scores[np.searchsorted(units, groups.producers[0].labels)], slow.numpy())


def test_bn_scale_ranks_by_the_scales_of_batch_norms(context, digits_network):
    groups, units, scores = score_all(digits_network, "bn_scale", context)
    gamma = digits_network.module.bn2.weight.detach().abs()
    mine = next(producer.labels for producer in groups.producers if producer.layer == "conv2")
    assert np.allclose(scores[np.searchsorted(units, mine)], gamma / gamma.mean(), rtol=1e-5)


def test_bn_scale_leaves_channels_without_a_batch_norm_whole_and_names_them(context):
    spec = PruneSpec(method="prune", criterion="bn_scale", amount=0.5)
    with pytest.raises(NothingToPrune, match="no batch norm"):
        channel.run(make("vit"), spec, context)
    details = channel.run(make("mlp"), spec, context).details
    assert (details["prunable_channels"], details["removed_channels"]) == (32, 16)
    assert [layer["name"] for layer in details["unscored"]] == ["layers.5"]


def test_random_is_drawn_by_the_seed_of_the_job(context):
    network = make("mlp")
    one, again, other = (score_all(network, "random", replace(context, seed=seed))[2] for seed in (1, 1, 2))
    assert one.tolist() == again.tolist() != other.tolist()
