from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from app.domain.errors import NoChange, NothingToPrune
from app.domain.steps.prune import PruneSpec
from app.domain.steps.training import FinetuneSpec
from tests.compression.networks import make
from workers.compression.checks import check_step
from workers.compression.counting import describe_layers
from workers.compression.datasets import Dataset, Split
from workers.compression.formats import onnx, pt2
from workers.compression.lifting import lift
from workers.compression.pruning import prune
from workers.compression.pruning.masks import all_but, lowest, lowest_of_rows, wanda
from workers.compression.training import finetune


def spec(**given):
    return PruneSpec(method="prune", **({"granularity": "weight"} | given))


def zeros(network):
    return {name: value == 0 for name, value in network.module.named_parameters() if value.ndim > 1}


def test_the_lowest_go_wherever_they_stand():
    scores = [torch.tensor([[3.0, 1.0]]), torch.tensor([2.0, 5.0])]
    assert [part.tolist() for part in lowest(scores, 0.5)] == [[[False, True]], [True, False]]
    assert lowest_of_rows(torch.tensor([[3.0, 1.0], [2.0, 5.0]]), 0.5).tolist() == [[False, True], [True, False]]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    amount=st.floats(0, 0.95),
    scale=st.floats(1e-6, 1e6),
)
def test_no_amount_empties_a_layer(sizes, amount, scale):
    generator = torch.Generator().manual_seed(sum(sizes))
    scores = [torch.rand(size, generator=generator) * scale**place for place, size in enumerate(sizes)]
    found = lowest(scores, amount)
    assert all(not bool(mask.all()) for mask in found)
    assert sum(int(mask.sum()) for mask in found) == min(round(amount * sum(sizes)), sum(sizes) - len(sizes))


@pytest.mark.parametrize(("keep", "block"), [(2, 4), (4, 8), (1, 3)])
def test_n_of_every_m_stay(keep, block):
    scores = torch.rand(3, 2 * block, 2, 2, generator=torch.Generator().manual_seed(0))
    gone = all_but(scores, keep, block, 1)
    for out in range(3):
        for start in (0, block):
            for place in range(4):
                part = (out, slice(start, start + block), place // 2, place % 2)
                slow = sorted(scores[part].tolist())[: block - keep]
                assert sorted(scores[part][gone[part]].tolist()) == slow


def test_wanda_is_magnitude_times_the_norm_of_the_input():
    weight, rows = torch.randn(3, 4), torch.randn(7, 4)
    slow = [[abs(w) * sum(x[j] ** 2 for x in rows) ** 0.5 for j, w in enumerate(row)] for row in weight]
    assert torch.allclose(wanda(weight, rows.norm(dim=0)), torch.tensor(slow))


@pytest.mark.parametrize("options", [{}, {"scope": "layer"}, {"criterion": "random"}])
def test_the_share_is_met_and_reported(context, digits_network, options):
    result = prune.run(digits_network, spec(amount=0.7, **options), context)
    found = zeros(result.network)
    assert set(found) == {"conv1.weight", "conv2.weight", "fc.weight"}
    total = sum(int(mask.sum()) for mask in found.values()) / sum(mask.numel() for mask in found.values())
    assert total == pytest.approx(0.7, abs=0.002)
    assert result.details["sparsity"] == total
    assert not any(mask.any() for mask in zeros(digits_network).values())
    check_step("prune", digits_network, result.network)
    with pytest.raises(NoChange):
        prune.run(result.network, spec(amount=0.5, **options), context)


def test_two_of_every_four_inputs_stay_and_layers_that_do_not_divide_are_named(context, digits_network):
    result = prune.run(digits_network, spec(granularity="2:4"), context)
    found = zeros(result.network)
    assert found["conv2.weight"].view(32, 4, 4, 3, 3).sum(2).unique().tolist() == [2]
    assert found["fc.weight"].view(10, 8, 4).sum(2).unique().tolist() == [2]
    assert result.details["unprunable"] == [{"name": "conv1", "reason": "its 1 inputs are no multiple of 4"}]


def test_wanda_takes_the_same_share_of_each_output_of_linear_layers(context, digits_network):
    result = prune.run(digits_network, spec(criterion="wanda", amount=0.5), context)
    found = zeros(result.network)
    assert found["fc.weight"].sum(1).tolist() == [16] * 10
    assert not found["conv2.weight"].any()
    assert result.details["calibration_rows"] == 1024
    magnitude = prune.run(digits_network, spec(amount=0.5, scope="layer"), context)
    assert not torch.equal(found["fc.weight"], zeros(magnitude.network)["fc.weight"])


class Loose(nn.Module):
    """Weights that no module of torch's has: a convolution's, three of products, one of them read twice, and a row."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 1, 3, 3))
        self.w, self.v = nn.Parameter(torch.randn(144, 10)), nn.Parameter(torch.randn(10, 10))
        self.row = nn.Parameter(torch.randn(12))

    def forward(self, x):
        x = F.conv2d(x, self.kernel)
        y = torch.relu(x.flatten(1) @ self.w) @ self.v
        return y @ self.v + F.pad(y, (0, 2)).unsqueeze(1) @ self.row


def loose():
    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim("batch")},)
    return lift(torch.export.export(Loose().eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes))


@pytest.mark.parametrize("options", [{}, {"scope": "layer"}, {"criterion": "random"}])
def test_weights_that_no_module_of_torch_has_go_as_well(context, tmp_path, options):
    network = loose()
    result = prune.run(network, spec(amount=0.5, exclude=["kernel"], overrides={"v": 0.2}, **options), context)
    shares = {name: float((value == 0).double().mean()) for name, value in result.network.module.named_parameters()}
    assert shares["kernel"] == 0
    assert shares["v"] == pytest.approx(0.2, abs=0.005)
    assert (shares["w"] * 1440 + shares["row"] * 12) / 1452 == pytest.approx(0.5, abs=0.001)
    assert [row["name"] for row in result.details["layers"]] == ["w", "v", "row"]
    check_step("prune", network, result.network)
    pt2.save(result.network, tmp_path / "pruned.pt2")
    again = pt2.load(tmp_path / "pruned.pt2")
    trained = finetune.run(again, FinetuneSpec(method="finetune", epochs=1), context).network.module
    assert (trained.w[result.network.module.w == 0] == 0).all()
    assert not torch.equal(trained.w, result.network.module.w)


def test_inputs_of_a_product_are_the_rows_of_its_weight(context):
    network = loose()
    result = prune.run(network, spec(granularity="2:4"), context)
    module = result.network.module
    assert (module.w.view(36, 4, 10) == 0).sum(1).unique().tolist() == [2]
    assert (module.row.view(3, 4) == 0).sum(1).tolist() == [2, 2, 2]
    told = {row["name"]: row["reason"] for row in result.details["unprunable"]}
    assert told["v"] == "its 10 inputs are no multiple of 4"
    shapes = {layer.name: layer.weight_shape for layer in describe_layers(network)}
    assert shapes == {"kernel": (4, 1, 3, 3), "w": (10, 144), "v": (10, 10), "row": (1, 12)}


def test_wanda_scores_a_product_by_what_it_reads(context):
    network = loose()
    result = prune.run(network, spec(criterion="wanda", amount=0.5), context)
    rows = context.data.gather("calibration", np.arange(1024))[0][0]
    read = F.conv2d(rows, network.module.kernel).flatten(1).norm(dim=0)
    scores = network.module.w.detach().t().abs() * read
    assert torch.equal(lowest_of_rows(scores, 0.5), result.network.module.w.t() == 0)
    assert result.details["unprunable"][0] == {"name": "kernel", "reason": "wanda scores linear layers only"}
    assert {row["name"] for row in result.details["layers"]} == {"w", "v"}


class Wide(nn.Module):
    """Half a megabyte of outputs a row, as a language model has."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x)[:, :, None].repeat(1, 1, 16384)


def test_wanda_holds_the_outputs_of_one_batch_of_rows(context):
    network = lift(
        torch.export.export(Wide().eval(), (torch.zeros(2, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    )
    rows = np.random.default_rng(0).standard_normal((1024, 8), np.float32)
    calibration = Split((rows,), None, np.arange(1024))
    data = Dataset({"calibration": calibration}, (torch.float32,))
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    result = prune.run(network, spec(criterion="wanda", amount=0.5), replace(context, data=data))
    assert resident("VmHWM") - before < 500e6, "all outputs are 540 MB, and as much again where they are joined"
    assert result.details["calibration_rows"] == 1024


def resident(field):
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field))) * 1024


def test_layers_keep_a_weight_however_small_theirs_are(context, digits_network):
    network = digits_network.clone()
    with torch.no_grad():
        network.module.conv1.weight.mul_(1e-6)
    result = prune.run(network, spec(amount=0.95), context)
    assert int((~zeros(result.network)["conv1.weight"]).sum()) == 1
    assert result.details["sparsity"] == pytest.approx(0.95, abs=0.001)


@pytest.mark.parametrize("options", [{}, {"scope": "layer"}, {"rounds": 3, "schedule": "cubic"}])
def test_overrides_set_amounts_of_single_layers_and_the_first_that_matches_holds(context, digits_network, options):
    overrides = {"conv2": 0.25, "conv*": 0.0}
    result = prune.run(digits_network, spec(amount=0.75, overrides=overrides, **options), context)
    shares = {name: float(mask.float().mean()) for name, mask in zeros(result.network).items()}
    assert shares == pytest.approx({"conv1.weight": 0, "conv2.weight": 0.25, "fc.weight": 0.75}, abs=0.005)


def test_overrides_hold_for_each_output_of_wanda(context, digits_network):
    result = prune.run(digits_network, spec(criterion="wanda", amount=0.5, overrides={"fc": 0.25}), context)
    assert zeros(result.network)["fc.weight"].sum(1).tolist() == [8] * 10


def test_excluded_layers_stay_whole(context, digits_network):
    result = prune.run(digits_network, spec(exclude=["conv*"]), context)
    assert not zeros(result.network)["conv2.weight"].any()
    with pytest.raises(NothingToPrune, match="fc: it is excluded"):
        prune.run(digits_network, spec(exclude=["*"]), context)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_zeros_outlast_files_and_training(context, digits_network, tmp_path, optimizer):
    pruned = prune.run(digits_network, spec(amount=0.8), context).network
    pt2.save(pruned, tmp_path / "pruned.pt2")
    onnx.save(pruned, tmp_path / "pruned.onnx")
    again = pt2.load(tmp_path / "pruned.pt2")
    trained = finetune.run(again, FinetuneSpec(method="finetune", epochs=1, optimizer=optimizer), context).network
    before, after = zeros(pruned), zeros(trained)
    assert all(bool(after[name][mask].all()) for name, mask in before.items())
    assert not torch.equal(trained.module.conv2.weight, again.module.conv2.weight)


def test_transposed_convolutions_count_their_inputs_first(context):
    result = prune.run(make("unet"), spec(granularity="2:4"), context)
    assert zeros(result.network)["up.weight"].view(4, 4, 8, 2, 2).sum(1).unique().tolist() == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "4:4"}, "n must be less"),
        ({"granularity": "2:4", "amount": 0.5}, "no amount"),
        ({"granularity": "2:4", "macs_ratio": 2}, "macs_ratio is for channels"),
        ({"granularity": "2:4", "overrides": {"fc": 0.5}}, "overrides is for amounts"),
        ({"parameters_ratio": 2}, "parameters_ratio is for channels"),
        ({"criterion": "taylor"}, "does not score single weights"),
        ({"granularity": "channel", "criterion": "wanda"}, "does not score channels"),
        ({"granularity": "2to4"}, "pattern"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        spec(**options)
