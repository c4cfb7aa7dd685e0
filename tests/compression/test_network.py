import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from app.domain.errors import UnsupportedNetwork
from tests.compression.networks import ZOO, MobileNet, ResNet, export, make
from workers.compression.formats import onnx
from workers.compression.lifting import lift


def modules(network):
    return {name: type(part) for name, part in network.module.named_modules() if not list(part.children())}


def agree(exported, network, batch=3):
    x = torch.randn(batch, 3, 8, 8)
    with torch.no_grad():
        return torch.equal(exported.module()(x), network.module(x))


@pytest.mark.parametrize("name", ZOO)
def test_the_lifted_network_computes_the_same_bits(name):
    torch.manual_seed(1)
    exported = export(ZOO[name]())
    assert agree(exported, lift(exported))


def test_layers_become_real_modules_under_their_names():
    module = MobileNet()
    expected = {name: type(part) for name, part in module.named_modules() if not list(part.children()) and name}
    assert modules(lift(export(module))) == expected


def test_a_network_exported_in_train_mode_is_given_in_eval_mode_and_can_be_trained():
    module = ResNet()
    network = lift(export(module, train=True))
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(module.eval()(x), network.module(x))
    before = network.module.get_buffer("stem.1.running_mean").clone()
    network.module.train()(x)
    assert not torch.equal(before, network.module.get_buffer("stem.1.running_mean"))


def test_the_exported_program_shares_no_memory():
    exported = export(ResNet())
    network = lift(exported)
    before = copy.deepcopy(exported.state_dict)
    with torch.no_grad():
        for parameter in network.module.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in exported.state_dict.items())


def test_a_clone_shares_no_memory():
    network = make("mlp")
    twin = network.clone()
    with torch.no_grad():
        next(iter(twin.module.parameters())).zero_()
    assert next(iter(network.module.parameters())).abs().sum() > 0


def test_the_signature_names_the_dynamic_batch():
    network = make("mlp")
    assert network.signature.inputs[0].shape == ("batch", 3, 8, 8)
    assert network.signature.outputs[0].shape == ("batch", 10)
    assert network.batch_is_dynamic
    assert [tuple(x.shape) for x in network.example_inputs(5)] == [(5, 3, 8, 8)]
    assert torch.equal(network.example_inputs()[0], network.example_inputs()[0])


def test_a_fixed_batch_stays_fixed():
    network = make("mlp", dynamic=False, batch=4)
    assert network.signature.inputs[0].shape == (4, 3, 8, 8)
    assert not network.batch_is_dynamic
    assert network.rows == 4
    assert network.example_inputs(1)[0].shape[0] == 4
    assert agree(network.export(), network, batch=4)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_exporting_again_keeps_batch_names_and_bits(name):
    network = make(name)
    again = network.export()
    assert agree(again, network, batch=7)
    reloaded = lift(again)
    assert reloaded.signature == network.signature
    assert modules(reloaded) == modules(network)


def test_exporting_from_train_mode_still_gives_eval_mode():
    network = make("resnet").clone()
    reference = make("resnet")
    network.module.train()
    assert agree(network.export(), reference)
    assert network.module.training


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.middle = nn.Embedding(11, 6), nn.Linear(6, 6)

    def forward(self, tokens):
        x = self.middle(self.middle(self.embedding(tokens)))
        return F.linear(x, self.embedding.weight)


def test_tied_weights_stay_one_tensor():
    tokens = torch.randint(0, 11, (2, 5))
    exported = torch.export.export(Tied().eval(), (tokens,), dynamic_shapes=({0: Dim("batch")},))
    network = lift(exported)
    assert torch.equal(exported.module()(tokens), network.module(tokens))
    assert modules(network) == {"embedding": nn.Embedding, "middle": nn.Linear}
    assert len(list(network.module.parameters())) == 3
    again = lift(network.export())
    assert torch.equal(again.module(tokens), network.module(tokens))


def test_constants_of_the_call_are_no_inputs():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x, mask=None):
            return {"logits": self.fc(x if mask is None else x * mask), "double": 2 * x}

    network = lift(torch.export.export(Optional(), (torch.randn(2, 3), None), dynamic_shapes=({0: Dim("batch")}, None)))
    assert [spec.name for spec in network.signature.inputs] == ["x"]
    assert [tuple(y.shape) for y in network.module(torch.randn(4, 3))] == [(4, 2), (4, 3)]


def test_no_output_has_the_name_of_an_input(tmp_path):
    class Follow(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, output, output_1):
            return self.fc(output), output_1 + 1

    rows = torch.randn(2, 3), torch.randn(2, 3)
    network = lift(torch.export.export(Follow().eval(), rows, dynamic_shapes=({0: Dim("batch")},) * 2))
    assert [spec.name for spec in network.signature.inputs] == ["output", "output_1"]
    assert [spec.name for spec in network.signature.outputs] == ["output_", "output_1_"]
    onnx.save(network, tmp_path / "model.onnx")  # which compares it with the network


def test_inputs_of_a_derived_size_are_refused():
    class Sum(nn.Module):
        def forward(self, x, y):
            return x.sum(), y.sum()

    batch = Dim("batch", min=2, max=64)
    shapes = ({0: batch}, {0: 2 * batch})
    exported = torch.export.export(Sum(), (torch.randn(4, 3), torch.randn(8, 3)), dynamic_shapes=shapes)
    with pytest.raises(UnsupportedNetwork, match="derived from others"):
        lift(exported)


def test_a_dropout_in_place_becomes_a_module():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3, inplace=True), nn.Linear(4, 2)).eval()
    exported = torch.export.export(module, (torch.randn(2, 3),), dynamic_shapes=({0: Dim("batch")},))
    network = lift(exported)
    assert modules(network) == {"0": nn.Linear, "1": nn.Dropout, "2": nn.Linear}
    assert network.module.get_submodule("1").inplace
    x = torch.randn(4, 3)
    assert torch.equal(module(x), network.module(x))


def test_example_tokens_are_known_to_every_table_and_masks_hide_nothing():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.kinds = nn.Embedding(50, 4), nn.Embedding(1, 4)

        def forward(self, words, kinds, mask, scale):
            flat = self.words(words.view(-1, words.shape[-1]))
            return (flat + self.kinds(kinds)) * mask[..., None] * scale

    given = (*(torch.zeros(2, 5, dtype=torch.int64) for _ in range(3)), torch.randn(2, 5, 4))
    batch = Dim("batch")
    exported = torch.export.export(Tokens().eval(), given, dynamic_shapes=tuple({0: batch} for _ in given))
    words, kinds, mask, scale = lift(exported).example_inputs(30)
    assert words.min() >= 0
    assert 40 < words.max() < 50
    assert (kinds == 0).all()
    assert (mask == 1).all()
    assert scale.std() > 0.5
