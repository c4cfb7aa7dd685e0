import pytest
import torch
from torch import nn

from app.domain.errors import NoStudent
from app.domain.steps.distill import DerivedStudent
from tests.compression.networks import make
from workers.compression.counting import count_macs
from workers.compression.distillation.students import derive


def test_width_keeps_the_share_of_every_layers_channels_with_their_weights(context):
    network = make("vit")
    student = derive(network, DerivedStudent(width=0.5), context)
    shapes = {name: tuple(value.shape) for name, value in student.network.module.named_parameters()}
    assert shapes["attention.qkv.weight"] == (36, 24)  # two of four heads; layer norms keep what they work across
    assert shapes["wide.weight"] == (20, 24)
    assert shapes["fc.weight"] == (10, 24)
    whole = network.module.get_submodule("wide").weight
    rows = student.network.module.get_submodule("wide").bias
    assert torch.isin(rows, network.module.get_submodule("wide").bias).all()
    assert whole.shape == (40, 24)
    assert student.details["macs_ratio"] == pytest.approx(count_macs(network) / count_macs(student.network))
    assert {row["name"]: row["channels_after"] for row in student.details["channels"]}["wide"] == 20


def test_depth_keeps_blocks_evenly_and_tells_which_went(context):
    student = derive(make("resnet_option_a"), DerivedStudent(depth=0.5), context)
    gone = [block[0].split(".")[1] for block in student.details["dropped_blocks"]]
    assert gone == ["2", "5", "8"]  # of 0, 1, 2, 4, 5, 7, 8 four stay, the first of them first
    with torch.no_grad():
        assert student.network.module(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_both_together_and_the_same_again(context):
    asked = DerivedStudent(width=0.5, depth=0.5)
    one, two = (derive(make("resnet_option_a"), asked, context) for _ in range(2))
    assert one.details == two.details
    for name, value in one.network.module.state_dict().items():
        assert torch.equal(value, two.network.module.state_dict()[name]), name
    # Half the channels at either side of a convolution, and fewer convolutions.
    assert one.details["macs_ratio"] > 4


def test_the_network_stays_as_it_was(context):
    network = make("resnet_option_a")
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    student = derive(network, DerivedStudent(width=0.5, depth=0.5), context).network
    with torch.no_grad():
        for value in student.module.parameters():
            nn.init.zeros_(value)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


@pytest.mark.parametrize(("name", "asked", "found"), [
    ("mlp", {"depth": 0.5}, "none among layers.1, layers.2"),
    ("resnet", {"depth": 0.9}, "rounds to 1 of the 1 blocks that can go: blocks.0.conv1.0"),
    ("resnet_option_a", {"depth": 0.01}, "rounds to 0 of the 7 blocks"),
    ("shufflenet", {"depth": 0.5}, "there is none among"),
])  # fmt: skip
def test_what_a_structure_does_not_allow_is_refused_with_what_was_found(context, name, asked, found):
    with pytest.raises(NoStudent, match=found):
        derive(make(name), DerivedStudent(**asked), context)


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.Linear(192, 10)

    def forward(self, x):
        return self.only(x.flatten(1))


def test_a_width_that_no_layer_can_take_is_refused_with_the_reasons(context):
    from workers.compression.lifting import lift

    network = lift(torch.export.export(Fixed().eval(), (torch.randn(2, 3, 8, 8),)))
    with pytest.raises(NoStudent, match="only: its channels are the network's outputs"):
        derive(network, DerivedStudent(width=0.5), context)
