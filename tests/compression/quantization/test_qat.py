from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, export

from app.domain.errors import NothingToQuantize
from app.domain.job import EventType
from app.domain.steps.distill import DistillSpec
from app.domain.steps.training import FinetuneSpec
from tests.compression.quantization.networks import make_network
from tests.compression.quantization.schemes import run_onnx, run_torch, spec, text_context, write
from workers.compression.checkpoints import Checkpoints
from workers.compression.lifting import lift
from workers.compression.quantization import qat, quantize, weight_only
from workers.compression.quantization.fusion import check_fused
from workers.compression.quantization.ranges import SMALLEST_SCALE
from workers.compression.quantization.static import torchao_quiet
from workers.compression.quantization.written import check_packed

with torchao_quiet():
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver

    from workers.compression.quantization.qat_integer import SameRange, TrainedRange

QAT = {"epochs": 6, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def made(digits_network, digits_data, tmp_path_factory):
    """The int8 result, every checkpoint of the way there, and what was heard of it."""
    folder = tmp_path_factory.mktemp("qat")
    events, kept = [], {}

    class Kept(Checkpoints):
        def save(self, epoch, state, *, finished):
            super().save(epoch, state, finished=finished)
            kept[epoch] = {name: value.clone() for name, value in state["weights"].items()}

    checkpoints = Kept(folder / "kept", 1, lambda message, _: pytest.fail(message))
    context = replace(
        text_context(digits_network, folder), data=digits_data, checkpoints=checkpoints, progress=events.append
    )
    result, loaded = write(digits_network, spec("qat", **QAT), context, folder)
    return folder, result, loaded, kept, events


def test_it_is_converted_as_static_is(made, digits_data):
    folder, result, loaded, *_ = made
    operators = check_fused(folder / "model.onnx")
    assert (operators["QLinearConv"], operators["QGemm"]) == (2, 1)
    assert not {"Conv", "Gemm", "BatchNormalization"} & set(operators)
    assert loaded.quantized
    rows = digits_data.splits["validation"].inputs[0]
    ours, theirs = run_torch(loaded, rows), run_onnx(folder / "model.onnx", rows)
    np.testing.assert_array_equal(ours, run_torch(result.network, rows))
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.995
    assert (theirs.argmax(1) == digits_data.labels("validation")).mean() > 0.93
    assert [epoch["epoch"] for epoch in result.details["epochs"]] == [1, 2, 3, 4, 5, 6]
    assert result.details["layers_quantized"] == 3
    assert "bias_correction" not in result.details, "it was decided on the network that training began with"
    assert set(result.details["before_training"]) == {"bias_correction", "smooth_quant"}
    assert all(layer["sqnr_db"] > 20 for layer in result.details["layers"])


def test_progress_never_falls_though_ranges_are_found_before_anything_trains(made):
    fractions = [event.data["fraction"] for event in made[4] if event.type == EventType.PROGRESS]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.05
    assert fractions[-1] == 1


def test_ranges_move_and_stand_still_in_the_last_third(made):
    moving, last, still = (made[3][epoch] for epoch in (3, 4, 5))
    scales = [name for name in moving if name.endswith(".scale")]
    assert scales
    assert any(not torch.equal(moving[name], last[name]) for name in scales)
    assert [name for name in scales if not torch.equal(last[name], still[name])] == []
    assert not any(last[name] for name in last if name.endswith(".frozen"))
    assert all(still[name] for name in still if name.endswith(".frozen"))
    assert any(not torch.equal(last[name], still[name]) for name in last if name.endswith("weight"))


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_it_goes_on_from_a_checkpoint_to_the_same_weights(digits_network, digits_data, tmp_path, weights):
    step = spec("qat", weights=weights, **QAT | {"epochs": 2})
    context = replace(text_context(digits_network, tmp_path), data=digits_data)
    logged = []
    checkpoints = Checkpoints(tmp_path / "kept", 1, lambda message, _: logged.append(message))

    class Killed(Exception):
        pass

    class Once(Checkpoints):
        def save(self, epoch, state, *, finished):
            super().save(epoch, state, finished=finished)
            raise Killed

    with pytest.raises(Killed):
        quantize.run(digits_network, step, replace(context, checkpoints=Once(tmp_path / "kept", 1, checkpoints.log)))
    epochs = []

    def heard(message):
        if message.data.get("name") == "loss":
            epochs.append(message.data["step"])

    resumed = quantize.run(digits_network, step, replace(context, checkpoints=checkpoints, progress=heard))
    assert epochs == [2]
    whole = quantize.run(digits_network, step, context)
    expected = whole.network.module.state_dict()
    assert resumed.network.module.state_dict().keys() == expected.keys()
    for name, value in resumed.network.module.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert resumed.details["best_epoch"] == whole.details["best_epoch"]


def test_int4_weights_end_packed_on_the_ranges_they_trained_with(digits_network, digits_data, tmp_path):
    context = replace(text_context(digits_network, tmp_path), data=digits_data)
    step = spec("qat", weights="int4", **QAT | {"epochs": 1})
    result, loaded = write(digits_network, step, context, tmp_path)
    assert check_packed(tmp_path / "model.onnx")["MatMulNBits"] == 1
    assert [layer["bits"] for layer in result.details["layers"]] == [4]
    rows = digits_data.splits["validation"].inputs[0]
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", rows), run_torch(loaded, rows), rtol=1e-4, atol=1e-4)
    untrained = weight_only.run(digits_network, spec("weight_only", weights="int4"), context)
    packed = [step.network.module.get_submodule("fc").stored_weight for step in (result, untrained)]
    assert not torch.equal(*packed)


def test_the_spec_holds_the_training_that_it_would_be():
    assert isinstance(spec("qat").training, FinetuneSpec)
    taught = spec("qat", teacher="baseline", alpha=0.5, epochs=7).training
    assert isinstance(taught, DistillSpec)
    assert (taught.alpha, taught.temperature, taught.epochs) == (0.5, 4.0, 7)
    assert spec("static").training is None


def test_a_teacher_changes_what_is_learned(digits_network, digits_data, tmp_path):
    context = replace(text_context(digits_network, tmp_path), data=digits_data)
    losses = []
    for teacher in (None, "baseline"):
        result = quantize.run(digits_network, spec("qat", teacher=teacher, **QAT | {"epochs": 1}), context)
        assert result.network.quantized
        losses.append(result.details["epochs"][0]["loss"])
    assert losses[0] != losses[1]


def test_a_range_follows_a_weight_at_once_and_an_activation_slowly():
    weight, activation = PerChannelMinMaxObserver(dtype=torch.int8, quant_min=-127, quant_max=127,
        qscheme=torch.per_channel_symmetric, ch_axis=0), MinMaxObserver(dtype=torch.uint8, quant_min=0, quant_max=255,
        qscheme=torch.per_tensor_affine)  # fmt: skip
    weight(torch.tensor([[1.0, -2.0], [0.5, 0.25]]))
    activation(torch.tensor([0.0, 2.55]))
    rows, values = TrainedRange(weight).train(), TrainedRange(activation).train()
    torch.testing.assert_close(rows.scale, torch.tensor([2.0, 0.5]) / 127)
    rows(torch.tensor([[4.0, 1.0], [0.0, 0.0]]))
    assert rows.scale[0] == pytest.approx(4 / 127)
    assert rows.scale[1] == pytest.approx(SMALLEST_SCALE)

    rounded = values(torch.tensor([0.0, 5.1]))
    assert values.high.item() == pytest.approx(2.55 + 0.01 * 2.55)
    assert rounded[1] == pytest.approx(values.high.item(), rel=1e-5)
    values.frozen.fill_(value=True)
    values(torch.tensor([-9.0, 9.0]))
    values.eval().frozen.fill_(value=False)
    values(torch.tensor([-9.0, 9.0]))
    assert values.high.item() == pytest.approx(2.55 + 0.01 * 2.55)

    x = torch.tensor([1.0, 50.0], requires_grad=True)
    values(x).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0], "beyond the range nothing is learned"


def test_dropout_drops_while_it_trains_and_leaves_no_trace(digits_network, digits_data, tmp_path):
    """Without it the same seed would end in other weights."""
    context = replace(text_context(digits_network, tmp_path), data=digits_data)
    still = digits_network.clone()
    for part in still.module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    step = spec("qat", **QAT | {"epochs": 1})
    losses = [quantize.run(network, step, context).details["epochs"][0]["loss"] for network in (digits_network, still)]
    assert losses[0] > losses[1]


def test_what_has_no_layer_for_it_is_refused(tmp_path):
    network = make_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), (1, 8, 8))
    with pytest.raises(NothingToQuantize, match="Conv2d"):
        qat.run(network, spec("qat", weights="int4"), text_context(network, tmp_path))


def test_a_value_that_is_moved_keeps_its_range_and_what_dropout_scaled_up_passes():
    observer = MinMaxObserver(dtype=torch.uint8, quant_min=0, quant_max=255, qscheme=torch.per_tensor_affine)
    observer(torch.tensor([0.0, 2.55]))
    first = TrainedRange(observer).train()
    moved, dropped = (SameRange(observer, first, dropped=dropped) for dropped in (False, True))
    values = torch.tensor([0.0, 1.003, 9.0])
    assert moved.train()(values).tolist() == pytest.approx([0.0, 1.0, 2.55])
    assert torch.equal(dropped.train()(values), values)
    assert dropped.eval()(values).tolist() == pytest.approx([0.0, 1.0, 2.55])
    assert first.high.item() == pytest.approx(2.55), "only what is computed moves the range"
    first.train()(values)
    assert moved(values)[2] == pytest.approx(2.55 + 0.01 * (9 - 2.55), rel=1e-5)


class Words(nn.Module):
    """A table, and a layer behind dropout that reads what was moved."""

    def __init__(self):
        super().__init__()
        self.words, self.drop = nn.Embedding(9, 32), nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(64, 32), nn.Linear(32, 3)

    def forward(self, ids):
        return self.head(torch.relu(self.hidden(self.drop(self.words(ids)).flatten(1))))


def test_tables_and_what_is_moved_train_on_one_range(tmp_path):
    torch.manual_seed(0)
    ids = torch.zeros(2, 2, dtype=torch.int64)
    network = lift(export(Words().eval(), (ids,), dynamic_shapes=({0: Dim("batch")},)))
    rows = np.random.default_rng(0).integers(0, 9, (300, 2))
    context = text_context(network, tmp_path, rows, rows.sum(1) % 3)
    step = spec("qat", epochs=4, learning_rate=0.01, symmetric_activations=True)
    result, loaded = write(network, step, context, tmp_path)
    assert [layer["name"] for layer in result.details["layers"]] == ["words", "hidden", "head"]
    assert all(layer["sqnr_db"] > 20 for layer in result.details["layers"])
    found = check_fused(tmp_path / "model.onnx")
    assert found["QGemm"] == 2
    encodings = [node.args[1:3] for node in loaded.module.graph.nodes if "quantize_per_tensor" in str(node.target)]
    assert sorted({zero for _, zero in encodings}) == [0, 128]
    assert len(set(encodings)) == 2, "the table with all that is read of it, and the hidden values"
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", rows), run_torch(loaded, rows), rtol=1e-3, atol=2e-2)


class Dense(nn.Module):
    """A norm behind what is joined, as in DenseNets, which no layer can take in."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 1)
        self.norm, self.last, self.head = nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3), nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


def test_a_norm_that_no_layer_takes_in_trains_and_stays(digits_data, tmp_path):
    network = make_network(Dense(), (1, 8, 8))
    context = replace(text_context(network, tmp_path), data=digits_data)
    result, loaded = write(network, spec("qat", epochs=1, learning_rate=0.05), context, tmp_path)
    assert {layer["name"] for layer in result.details["layers"]} == {"left", "right", "last", "head"}
    rows = digits_data.splits["validation"].inputs[0]
    ours, theirs = run_torch(loaded, rows), run_onnx(tmp_path / "model.onnx", rows)
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.98
    before, after = network.module.norm, result.network.module.state_dict()
    assert not torch.equal(after["norm.weight"], before.weight), "it trained"
    torch.testing.assert_close(after["norm.running_mean"], before.running_mean)
