import pytest
import torch
from torch import nn

from tests.compression.training.runs import spec
from workers.compression.training import optimizer


class Encoder(nn.Module):
    """Every kind of parameter: tables, norms over several dimensions, shared and loose ones."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.wide_norm = nn.LayerNorm([3, 4])
        self.group_norm = nn.GroupNorm(1, 3)
        self.square_norm = nn.RMSNorm([3, 4])
        self.instance_norm = nn.InstanceNorm1d(3, affine=True)
        self.conv = nn.Conv1d(3, 3, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.linear = nn.Linear(4, 5)
        self.shared = nn.Linear(4, 7, bias=False)
        self.shared.weight = self.table.weight
        self.token = nn.Parameter(torch.zeros(1, 1, 4))


def test_norms_biases_and_tables_do_not_decay():
    module = Encoder()
    decayed, spared = optimizer.make_optimizer(module, spec(weight_decay=0.1)).param_groups
    names = {id(value): name for name, value in module.named_parameters()}
    assert {names[id(value)] for value in decayed["params"]} == {
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "linear.weight",
        "token",
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_the_network_of_digits_decays_as_it_did(digits_network):
    module = digits_network.clone().module
    decayed, _ = optimizer.make_optimizer(module, spec()).param_groups
    names = {id(value): name for name, value in module.named_parameters()}
    assert [names[id(value)] for value in decayed["params"]] == ["conv1.weight", "conv2.weight", "fc.weight"]


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ({}, lambda values: torch.optim.SGD(values, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
        ({"momentum": 0}, lambda values: torch.optim.SGD(values, 0.1, weight_decay=0.01)),
        ({"optimizer": "adamw"}, lambda values: torch.optim.AdamW(values, 0.1, weight_decay=0.01)),
    ],
)
def test_updates_are_those_of_the_plain_optimizers(given, reference):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 5, generator=generator)
    ours, theirs = nn.Linear(5, 6, bias=False), nn.Parameter(start.clone())
    ours.weight.data.copy_(start)
    one = optimizer.make_optimizer(ours, spec(learning_rate=0.1, weight_decay=0.01, **given))
    other = reference([theirs])
    for _ in range(5):
        gradient = torch.randn(6, 5, generator=generator)
        ours.weight.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours.weight, theirs)


def rates(updates, **given):
    return [optimizer.learning_rate(update, updates, spec(**given)) for update in range(updates)]


def test_the_rate_warms_up_and_falls_along_a_cosine():
    found = rates(100, learning_rate=2.0)
    assert found[:6] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    # Half of the way from step 5 to step 100 would be step 52.5.
    assert (found[52] + found[53]) / 2 == pytest.approx(1.0)
    assert found[99] < 0.001
    assert rates(1, learning_rate=2.0) == [2.0]


def test_the_rate_falls_in_steps():
    given = {"learning_rate": 1.0, "schedule": "step", "decay_at": (0.3, 0.8), "decay_factor": 0.2}
    found = rates(10, epochs=5, warm_up_epochs=1, **given)
    assert found == pytest.approx([0.5, 1, 1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.04, 0.04])


def test_a_constant_rate_warms_up_and_stays():
    assert rates(8, epochs=4, learning_rate=0.4, schedule="constant", warm_up_epochs=0.5) == pytest.approx([0.4] * 8)
    assert rates(8, epochs=4, learning_rate=0.4, schedule="constant", warm_up_epochs=1)[0] == pytest.approx(0.2)
    assert rates(8, epochs=4, learning_rate=0.4, warm_up_epochs=0)[0] == pytest.approx(0.4)
