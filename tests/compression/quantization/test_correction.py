import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from app.domain.steps.quantize import LayerOverride, QuantizeSpec
from tests.compression.quantization.networks import Residual, digits, make_context, make_network
from workers.compression.quantization.smoothing import smooth
from workers.compression.quantization.static import torchao_quiet

with torchao_quiet():
    from workers.compression.quantization.correction import correct_biases
    from workers.compression.quantization.plan import _better, make_plan
    from workers.compression.quantization.simulation import lockstep


def shifts(plan):
    """The largest mean error of an output channel, by layer, on the rows that biases are corrected on."""
    found = {}
    names = {node: name for name, (node,) in plan.layers().items()}

    def visit(node, exact, value):
        if node in names:
            axes = [axis for axis in range(exact.dim()) if axis != (1 if exact.dim() == 4 else exact.dim() - 1)]
            found[names[node]] = float((exact - value).mean(axes).abs().max())
        return value

    lockstep(plan.simulation(), (torch.cat([inputs[0] for inputs in plan.batches]),), visit)
    return found


def test_corrected_biases_take_the_shift_of_each_channel_away(tmp_path):
    torch.manual_seed(0)
    network = make_network(Residual(), (1, 8, 8))
    low = {"*": LayerOverride(bits=4)}
    spec = QuantizeSpec(method="quantize", samples=96, bias_correction="off", overrides=low)
    with torchao_quiet():
        plan = make_plan(network, spec, make_context(network, digits(), tmp_path))
        before = shifts(plan)
        rows = (torch.cat([inputs[0] for inputs in plan.batches]),)
        plan.biases = correct_biases(plan.module, plan.weights, rows, plan.layers())
        after = shifts(plan)
    assert before.keys() == after.keys() == {"stem", "conv1", "conv2", "shortcut", "classifier"}
    for name, shift in before.items():
        # What is left is the rounding of the bias itself to units of s_x · s_w.
        assert after[name] < 0.05 * shift, name


def test_what_is_left_open_is_settled_by_what_comes_out(tmp_path):
    torch.manual_seed(0)
    network = make_network(Residual(), (1, 8, 8))
    spec = QuantizeSpec(method="quantize", samples=64, bias_correction="off")
    with torchao_quiet():
        plan = make_plan(network, spec, make_context(network, digits(), tmp_path))
        shifted = {name: value + 1 for name, value in plan.module.named_parameters() if name.endswith("bias")}
        worse = replace(plan, biases=shifted)
        reference = plan.reference(plan.batches)
        for asked, one, other, taken in (("auto", plan, worse, plan), ("auto", worse, plan, plan),
                                         ("on", plan, worse, worse)):  # fmt: skip
            better, decision = _better(asked, one, other, reference, plan.batches)
            assert better is taken
            assert decision.used is (taken is other)
        assert decision.sqnr_db_with < decision.sqnr_db_without
        everything = frozenset(worse.layers())
        assert torch.equal(worse.outputs(everything, plan.batches), reference), "layers in float keep their biases"


class Norms(nn.Module):
    """Three givers that can be divided, a norm whose output is read elsewhere too, and one behind a sigmoid."""

    def __init__(self):
        super().__init__()
        self.norm, self.shared = nn.LayerNorm(16), nn.LayerNorm(16)
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.gated, self.last = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        y = self.norm(x)
        x = self.a(y) * self.b(y)
        z = self.shared(x)
        x = z + self.c(z)
        x = self.down(torch.relu(self.up(x)))
        return self.last(torch.sigmoid(self.gated(x)))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_smoothing_moves_scale_and_changes_no_output(alpha):
    torch.manual_seed(0)
    network = make_network(Norms(), (16,))
    with torch.no_grad():
        network.module.norm.weight[3] = 50.0
    kept = copy.deepcopy(network.module.state_dict())
    rows = [(torch.randn(40, 16, generator=torch.Generator().manual_seed(1)),)]
    smoothed, names = smooth(network.module, rows, alpha)
    assert names == ["a", "b", "down", "gated"]
    with torch.no_grad():
        torch.testing.assert_close(smoothed(*rows[0]), network.module(*rows[0]), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, kept[name]) for name, value in network.module.state_dict().items())
    changed = {name for name, value in smoothed.state_dict().items() if not torch.equal(value, kept[name])}
    assert {"norm.weight", "a.weight", "b.weight", "up.weight", "down.weight"} <= changed
    assert not {name for name in changed if name.startswith(("shared", "c.", "last"))}
    # Equation 4: with α = 1 what is read reaches as far as 1 in every channel.
    with torch.no_grad():
        reach = smoothed.norm(rows[0][0]).abs().amax(0)
    if alpha == 1.0:
        torch.testing.assert_close(reach, torch.ones(16), rtol=1e-4, atol=1e-4)
    assert alpha == 0 or reach.max() / reach.min() < 25
