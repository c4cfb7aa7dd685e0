"""What a user leaves out or treats otherwise, and the objective, on a small residual network."""

import numpy as np
import pytest
import torch
from torch import fx

from app.domain.errors import NothingToQuantize, RangeNotFound, ValidationFailed
from app.domain.job import Objective
from app.domain.steps.quantize import LayerOverride, QuantizeSpec
from tests.compression.quantization.networks import Residual, digits, make_context, make_network
from workers.compression.formats import onnx as onnx_format
from workers.compression.quantization import static
from workers.compression.quantization.fusion import check_fused

LAYERS = {"stem", "conv1", "conv2", "shortcut", "classifier"}


def spec(**fields):
    return QuantizeSpec(method="quantize", **({"samples": 64, "bias_correction": "off"} | fields))


@pytest.fixture(scope="module")
def rows():
    return digits()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return make_network(Residual(), (1, 8, 8))


@pytest.fixture
def quantize(network, rows, tmp_path):
    def run(objective=None, labels=None, **fields):
        context = make_context(network, rows, tmp_path, labels=labels, objective=objective)
        return static.run(network, spec(**fields), context)

    return run


def names(result):
    return {layer["name"] for layer in result.details["layers"]}


@pytest.mark.parametrize(
    ("fields", "integer"),
    [
        ({"exclude": ("conv?",)}, {"stem", "shortcut", "classifier"}),
        ({"exclude": ("linear",)}, LAYERS - {"classifier"}),
        ({"include": ("conv2d",)}, LAYERS - {"classifier"}),
        ({"include": ("conv*",), "exclude": ("conv2",)}, {"conv1"}),
        ({"overrides": {"stem": LayerOverride(keep_float=True)}}, LAYERS - {"stem"}),
    ],
)
def test_patterns_and_operators_choose_layers(quantize, tmp_path, fields, integer):
    result = quantize(**fields)
    assert names(result) == integer
    assert {name for name in result.details["floats"] if name in LAYERS} == LAYERS - integer
    onnx_format.save(result.network, tmp_path / "model.onnx")
    operators = check_fused(tmp_path / "model.onnx")
    assert operators["QLinearConv"] + operators["QGemm"] == len(integer), "and no pair is left over"


def test_an_operator_without_weights_can_be_left_out(quantize, tmp_path):
    result = quantize(exclude=("add",))
    onnx_format.save(result.network, tmp_path / "model.onnx")
    operators = check_fused(tmp_path / "model.onnx")
    assert operators["QLinearAdd"] == 0
    assert operators["QLinearConv"] == 4


@pytest.mark.parametrize("field", ["include", "exclude", "overrides"])
def test_a_pattern_that_matches_nothing_is_named(quantize, field):
    given = {"stages.*": LayerOverride(bits=4)} if field == "overrides" else ("stages.*",)
    with pytest.raises(ValidationFailed, match=rf"{field}: .*'stages\.\*'.*conv1 \(conv2d\)"):
        quantize(**{field: given})


def test_something_must_be_left_to_quantize(quantize):
    with pytest.raises(NothingToQuantize, match="leave every layer in float"):
        quantize(exclude=("*",))


def test_fewer_bits_narrow_the_weights_of_that_layer(quantize):
    results = {name: quantize(overrides=given) for name, given in {
        "all": {}, "stem": {"stem": LayerOverride(bits=3)}}.items()}  # fmt: skip
    by_name = {layer["name"]: layer for layer in results["stem"].details["layers"]}
    assert {layer["bits"] for name, layer in by_name.items() if name != "stem"} == {8}
    assert by_name["stem"]["bits"] == 3
    plain = {layer["name"]: layer for layer in results["all"].details["layers"]}
    assert by_name["stem"]["sqnr_db"] < plain["stem"]["sqnr_db"] - 15
    weights = [v for v in results["stem"].network.module.state_dict().values() if v.dtype == torch.int8 and v.dim() > 1]
    assert min(int(weight.int().abs().max()) for weight in weights) == 3


def test_an_override_for_all_leaves_those_of_single_layers(quantize):
    given = {"*": LayerOverride(bits=6), "conv2d": LayerOverride(bits=5), "stem": LayerOverride(bits=3)}
    bits = {layer["name"]: layer["bits"] for layer in quantize(overrides=given).details["layers"]}
    assert bits == {"stem": 3, "conv1": 5, "conv2": 5, "shortcut": 5, "classifier": 6}


def test_a_layer_can_have_an_observer_of_its_own(quantize):
    scales = {}
    for name, given in {"all": {}, "one": {"conv1": LayerOverride(observer="percentile")}}.items():
        result = quantize(observer="minmax", percentile=80, overrides=given)
        nodes = result.network.module.graph.nodes
        scales[name] = [n.args[1] for n in nodes if ".quantize_per_tensor" in str(n.target)]
    differing = sum(a != b for a, b in zip(scales["all"], scales["one"], strict=True))
    assert differing == 2, "what the layer reads and what it gives"


def test_symmetric_activations_have_their_zero_in_the_middle(quantize, tmp_path):
    network = quantize(symmetric_activations=True).network
    zeros = {
        node.args[0].name if isinstance(node.args[0], fx.Node) else "": node.args[2]
        for node in network.module.graph.nodes
        if ".quantize_per_tensor" in str(node.target)
    }
    assert set(zeros.values()) == {0, 128}
    assert all(zero == (0 if name.startswith("relu") else 128) for name, zero in zeros.items())
    onnx_format.save(network, tmp_path / "model.onnx")
    assert check_fused(tmp_path / "model.onnx")["QLinearConv"] == 4, "an activation costs no operator of its own"


def test_layers_go_back_until_the_objective_holds(quantize, rows, network, tmp_path):
    with torch.no_grad():
        labels = network.module(torch.from_numpy(rows)).argmax(1).numpy()
    broken = {"conv1": LayerOverride(bits=2)}
    result = quantize(Objective(max_drop=0.02), labels, overrides=broken, gate_rows=400)
    gate = result.details["gate"]
    assert gate["drop_of_all"] > 0.02 >= gate["drop"]
    assert (gate["held"], gate["complete"], gate["metric"]) == (True, True, "accuracy")
    assert gate["floats"] == ["conv1"]
    assert gate["ranking"][0]["name"] == "conv1"
    assert gate["rows_from"] == "calibration rows that no range was found on"
    assert result.details["floats"] == {"conv1": "objective"}
    # What was judged in the simulation is what comes out.
    with torch.no_grad():
        decided = result.network.module(torch.from_numpy(rows[64:464])).argmax(1).numpy()
    assert (decided != labels[64:464]).mean() == pytest.approx(gate["drop"], abs=1e-9)
    onnx_format.save(result.network, tmp_path / "model.onnx")
    check_fused(tmp_path / "model.onnx")


def test_without_labels_the_objective_is_held_by_agreement(quantize):
    gate = quantize(Objective(max_drop=0.5), gate_rows=100).details["gate"]
    assert gate["metric"] == "agreement"
    assert gate["evaluations"] == 1


def test_values_that_never_change_are_named(network, rows, tmp_path):
    dead = network.clone()
    with torch.no_grad():
        dead.module.norm1.bias.fill_(-1000.0)
    with pytest.raises(RangeNotFound, match=r"'relu_1', behind conv1, is 0 everywhere on all 64"):
        static.run(dead, spec(), make_context(dead, rows, tmp_path))


def test_values_that_are_not_finite_are_named(network, rows, tmp_path):
    wild = network.clone()
    with torch.no_grad():
        wild.module.conv1.weight[0].fill_(3e38)
    with pytest.raises(RangeNotFound, match=r"'relu_1', behind conv1, is NaN or infinite"):
        static.run(wild, spec(), make_context(wild, (rows * 1e3).astype(np.float32), tmp_path))
