from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor import config

from app.domain.job import EventType
from tests.compression.training.runs import same, spec
from workers.compression.training import finetune, mode
from workers.compression.training.mode import Load, Mode, choose_mode, compare, takes_channels_last


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep what is compiled here, lest kernels for another processor are taken, which end the process."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))


def load(network, context, **given):
    inputs, _ = context.data.gather("train", np.arange(8))
    return Load(inputs, **({"multiplications": lambda: 10**9, "batches": 1000} | given))


def choose(network, context, extensions=("avx512_bf16",), measured=(2.0, 1.0), asked=None, **given):
    """Choose on a processor with these extensions, on which float32 and bfloat16 were measured so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mode, "isa", lambda: extensions)
        patch.setattr(mode, "compare", lambda *_: measured)
        return choose_mode(network.module, spec(**(asked or {})), load(network, context, **given), context.log)


def test_a_choice_is_measured_where_the_rules_allow_and_needs_a_wide_margin(context, digits_network):
    chosen = choose(digits_network, context)
    assert (chosen.precision, chosen.reason) == ("bf16", "bfloat16 was measured to be 2.00 times as fast as float32")
    assert choose(digits_network, context, measured=(1.29, 1.0)).precision == "float32"
    assert choose(digits_network, context, measured=(1.31, 1.0)).precision == "bf16"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"extensions": ("avx512f", "avx512_vnni")}, "multiplies no bfloat16"),
        ({"multiplications": lambda: 99_999_999}, "99,999,999 multiplications"),
        ({"batches": 199}, "199 batches"),
    ],
)
def test_rules_decide_before_anything_is_measured(context, digits_network, given, reason):
    chosen = choose(digits_network, context, measured=None, **given)
    assert chosen.precision == "float32"
    assert reason in chosen.reason


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_a_step_asks_for_holds_without_measuring(context, digits_network, precision):
    assert choose(digits_network, context, measured=None, asked={"precision": precision}).precision == precision


def test_measuring_leaves_the_network_and_random_numbers_as_they_were(context, digits_network):
    network, before = digits_network.clone(), torch.get_rng_state()
    network.module.requires_grad_(requires_grad=True)
    forms, modes = (network.module, network.module), (Mode(), Mode(bf16=True))
    seconds = compare(network.module, forms, modes, load(network, context).inputs)
    assert all(0 < value < 10 for value in seconds)
    assert same(network, digits_network)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.grad is None for value in network.module.parameters())
    assert not network.module.training


def test_bfloat16_trains_float32_weights_and_is_told(context, digits_network, events):
    result = finetune.run(digits_network, spec(precision="bf16", label_smoothing=0.1), context)
    assert {value.dtype for value in result.network.module.parameters()} == {torch.float32}
    assert result.details["mode"]["bf16"]
    assert not same(result.network, finetune.run(digits_network, spec(label_smoothing=0.1), context).network)
    assert max(epoch["accuracy"] for epoch in result.details["epochs"]) > 0.9
    assert any("training in bf16" in event.data["message"] for event in events if event.type == EventType.LOG)


def test_the_report_names_the_choice(context, digits_network):
    given = spec(epochs=1)
    assert given.precision == "auto"
    assert finetune.run(digits_network, given, context).spec == given.model_copy(update={"precision": "float32"})


def test_a_network_whose_views_need_the_usual_order_keeps_it():
    class Viewed(nn.Module):
        def __init__(self, *, view):
            super().__init__()
            self.conv, self.view = nn.Conv2d(3, 4, 3), view

        def forward(self, x):
            x = self.conv(x)
            return x.view(x.shape[0], -1) if self.view else x.flatten(1)

    x = torch.randn(2, 3, 6, 6)
    assert takes_channels_last(Viewed(view=False), (x,))
    viewed = Viewed(view=True)
    assert not takes_channels_last(viewed, (x,))
    assert viewed.conv.weight.is_contiguous()
    assert not takes_channels_last(nn.Linear(3, 2), (torch.randn(2, 3),))


def test_compiling_is_left_out_where_it_cannot_pay(context, digits_network, events):
    result = finetune.run(digits_network, spec(epochs=1, compile="auto"), context)
    assert not result.details["mode"]["compiled"]
    assert "less than compiling could pay for" in events[0].data["message"]


def test_a_watched_network_is_not_compiled(context, digits_network, events):
    watched = digits_network.clone()
    watched.module.conv1.register_forward_hook(lambda *_: None)
    choose_mode(watched.module, spec(compile="auto"), load(watched, context), context.log)
    assert "watches" in events[-1].data["message"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in its own compiler
def test_without_a_compiler_training_goes_on(context, digits_network, events, monkeypatch):
    monkeypatch.setattr(mode, "LEAST_COMPILED_SECONDS", 0.0)
    with config.patch({"cpp.cxx": ("/no/such/compiler",), "fx_graph_cache": False}):
        result = finetune.run(digits_network, spec(epochs=1, compile="auto"), replace(context))
    assert not result.details["mode"]["compiled"]
    told = [event.data for event in events if event.type == EventType.LOG and event.data["level"] == "warning"]
    assert "not compiled" in told[0]["message"]
    assert "compiler" in told[0]["message"]
    assert same(result.network, finetune.run(digits_network, spec(epochs=1), context).network)


@pytest.mark.long  # it compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in its own compiler
def test_a_compiled_network_learns_as_well(context, digits_network, events, monkeypatch):
    monkeypatch.setattr(mode, "LEAST_COMPILED_SECONDS", 0.0)
    monkeypatch.setattr(mode, "COMPILED_MARGIN", 0.0)  # whatever this machine measures
    compiled = finetune.run(digits_network, spec(epochs=2, compile="auto"), context)
    assert compiled.details["mode"]["compiled"]
    told = [event.data["message"] for event in events if event.type == EventType.LOG]
    assert any(message.startswith("compiled, a step was measured to be ") for message in told), told
    plain = finetune.run(digits_network, spec(epochs=2), context)
    # What dropout draws is another's once compiled.
    for ours, theirs in zip(compiled.details["epochs"], plain.details["epochs"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.2)


def test_a_network_is_compiled_where_that_gains_more_than_compiling_takes(context, digits_network):
    asked = {"compile": "auto", "precision": "float32"}
    assert choose(digits_network, context, measured=(1.06, 1.0), asked=asked).compiled
    assert not choose(digits_network, context, measured=(1.04, 1.0), asked=asked).compiled
    assert not choose(digits_network, context, measured=(1.06, 1.0), asked=asked, batches=800).compiled
