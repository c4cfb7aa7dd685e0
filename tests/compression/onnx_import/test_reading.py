"""Batches, sizes, branches and names of files that are read."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from app.domain.errors import UnsupportedNetwork
from tests.compression.architectures import Encoder
from tests.compression.networks import ResNet, ViT
from tests.compression.onnx_import.files import by_hand, by_tracing, node, run, taken_in
from tests.compression.pretrained import bert, gpt2, shaken
from workers.compression.formats import onnx as onnx_format
from workers.compression.formats import pt2
from workers.compression.formats.models import load_model
from workers.compression.formats.onnx_import import reading
from workers.compression.inspection import inspect_model

W = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")


@pytest.mark.parametrize("make", [ResNet, ViT])
def test_a_batch_of_one_row_is_freed_where_rows_do_not_meet(make, tmp_path):
    module = shaken(make())
    by_tracing(module, (torch.randn(1, 3, 8, 8),), tmp_path / "net.onnx", dynamic=None)
    network = taken_in(tmp_path / "net.onnx")
    assert network.signature.inputs[0].shape == ("batch", 3, 8, 8)
    assert network.signature.outputs[0].shape == ("batch", 10)
    rows = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        ours = network.module(rows).numpy()
    names = [each.name for each in onnx.load(tmp_path / "net.onnx").graph.output]
    assert [each.name for each in network.signature.outputs] == names
    alone = np.concatenate([run(tmp_path / "net.onnx", [row[None]])[0] for row in rows])
    np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-5 * np.abs(alone).max())


def test_a_batch_of_one_row_stays_where_the_graph_holds_for_no_other(tmp_path):
    by_tracing(shaken(Encoder()), (torch.randn(1, 6, 16),), tmp_path / "net.onnx", dynamic=None)
    network = taken_in(tmp_path / "net.onnx")
    assert network.signature.inputs[0].shape == (1, 6, 16)
    assert network.rows == 1


def test_rows_that_meet_keep_their_batch(tmp_path):
    """A graph that runs with more rows, and gives them other outputs than one by one."""
    nodes = [node("Softmax", ["x"], ["s"], axis=0), node("MatMul", ["s", "w"])]
    by_hand(tmp_path / "net.onnx", nodes, {"x": [1, 4]}, ["y"], {"w": W})
    assert taken_in(tmp_path / "net.onnx").signature.inputs[0].shape == (1, 4)


def test_a_mask_that_is_read_by_places_is_each_rows_own(tmp_path):
    """Exported with one row, BERT's mask is gathered from the places of the first: rows of ones do not show it."""
    text = (torch.arange(8)[None], torch.ones(1, 8, dtype=torch.int64))
    names = ("input_ids", "attention_mask")
    by_tracing(shaken(bert()), text, tmp_path / "net.onnx", opset=14, names=names, dynamic=None)
    network = taken_in(tmp_path / "net.onnx")
    tokens = torch.randint(60, (3, 8))
    mask = (torch.arange(8) < torch.tensor([[8], [5], [2]])).long()
    alone = np.concatenate(
        [run(tmp_path / "net.onnx", [i[None], m[None]])[0] for i, m in zip(tokens, mask, strict=True)]
    )
    with torch.no_grad():
        rows = zip(tokens.split(network.rows), mask.split(network.rows), strict=True)
        ours = torch.cat([network.module(*each) for each in rows]).numpy()
    np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-5)
    assert network.signature.inputs[0].shape == (1, 8)


def test_a_larger_fixed_batch_stays(tmp_path):
    by_hand(tmp_path / "net.onnx", [node("MatMul", ["x", "w"])], {"x": [3, 4]}, ["y"], {"w": W})
    assert taken_in(tmp_path / "net.onnx").signature.inputs[0].shape == (3, 4)


def test_the_length_of_a_text_stays_dynamic(tmp_path):
    text = (torch.arange(12).reshape(2, 6), torch.ones(2, 6, dtype=torch.int64))
    names = ("input_ids", "attention_mask")
    by_tracing(shaken(gpt2()), text, tmp_path / "net.onnx", names=names, dynamic=("batch", "length"))
    network = taken_in(tmp_path / "net.onnx")
    assert {spec.shape for spec in network.signature.inputs} == {("batch", "input_ids_1")}
    tokens = torch.randint(60, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    with torch.no_grad():
        np.testing.assert_allclose(network.module(*tokens), run(tmp_path / "net.onnx", tokens)[0], rtol=1e-3, atol=1e-4)


def branches(*ops):
    shape = [helper.make_tensor_value_info("z", 1, None)]
    return [helper.make_graph([node(op, ["x"], ["z"])], op, [], shape) for op in ops]


def test_a_file_is_read_again_in_the_way_that_is_told_and_in_no_other(tmp_path):
    """64 values go one way, 16,000 the other: what is traced with them holds for 300, which nothing tries again."""
    long = helper.make_graph([node("Tanh", ["x"], ["z"])], "long", [], [helper.make_tensor_value_info("z", 1, None)])
    short = branches("Relu", "Neg")[0]
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "axis"], ["n"]),
        node("Less", ["n", "sixty_five"], ["c"]),
        node("If", ["c"], ["t"], then_branch=short, else_branch=long),
        node("Slice", ["t", "from", "to", "axis"]),
    ]
    weights = {name: np.array([n]) for name, n in {"axis": 1, "sixty_five": 65, "from": 0, "to": 60}.items()}
    by_hand(tmp_path / "net.onnx", nodes, {"x": [None, "length"]}, ["y"], weights)
    with pytest.raises(UnsupportedNetwork, match="another way"):
        reading.find(tmp_path / "net.onnx")
    again = reading.load_again(tmp_path / "net.onnx", 1)
    rows = torch.randn(2, 300)
    np.testing.assert_allclose(again.module(rows), run(tmp_path / "net.onnx", [rows])[0], rtol=1e-5)


@pytest.mark.parametrize("make", [ResNet, ViT])
def test_an_inspection_tells_jobs_how_to_read_the_file(make, tmp_path):
    by_tracing(shaken(make()), (torch.randn(1, 3, 8, 8),), tmp_path / "net.onnx", dynamic=None)
    way = inspect_model(tmp_path / "net.onnx", "onnx").way
    assert way == 0
    rows = torch.randn(3, 3, 8, 8)
    first, again = (load_model(tmp_path / "net.onnx", "onnx", way) for way in (None, way))
    assert torch.equal(first.module(rows), again.module(rows))
    assert first.dynamic[0].keys() == again.dynamic[0].keys() == {0}


@pytest.mark.parametrize("condition", ["constant", "of sizes"])
def test_a_branch_that_needs_no_values_is_taken(condition, tmp_path):
    then, other = branches("Relu", "Neg")
    weights = {"c": np.array(condition == "constant")}
    before = []
    if condition == "of sizes":
        weights = {"four": np.array([4]), "axis": np.array([1])}
        before = [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "axis"], ["n"]),
            node("Equal", ["n", "four"], ["c"]),
        ]
    nodes = [*before, node("If", ["c"], then_branch=then, else_branch=other)]
    by_hand(tmp_path / "net.onnx", nodes, {"x": ["batch", 4]}, ["y"], weights)
    network = taken_in(tmp_path / "net.onnx")
    assert network.module(-torch.ones(2, 4)).eq(0).all()


def test_a_branch_that_other_lengths_do_not_take_is_refused(tmp_path):
    """Traced at one length, the network would go one way for all of them."""
    then, other = branches("Relu", "Neg")
    weights = {"hundred": np.array([100]), "axis": np.array([1])}
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "axis"], ["n"]),
        node("Greater", ["n", "hundred"], ["c"]),
        node("If", ["c"], then_branch=then, else_branch=other),
    ]
    by_hand(tmp_path / "net.onnx", nodes, {"x": ["batch", "length"]}, ["y"], weights)
    with pytest.raises(UnsupportedNetwork, match="goes another way through its graph for inputs of") as caught:
        taken_in(tmp_path / "net.onnx")
    assert "fixed sizes" in caught.value.hint


def test_names_that_are_no_identifiers_become_some(tmp_path):
    nodes = [
        node("Conv", ["input.1", "type.forward.weight"], ["1"]),
        node("Relu", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "w:0"], ["y"]),
    ]
    weights = {"type.forward.weight": W.reshape(4, 4, 1, 1), "w:0": 2 * W.reshape(4, 4, 1, 1)}
    by_hand(tmp_path / "net.onnx", nodes, {"input.1": ["batch", 4, 6, 6]}, ["y"], weights)
    network = taken_in(tmp_path / "net.onnx")
    assert network.signature.inputs[0].name == "input_1"
    assert [name for name, part in network.module.named_modules() if isinstance(part, nn.Conv2d)] == [
        "type_.forward_", "conv",
    ]  # fmt: skip


def test_equal_vectors_of_different_layers_are_parameters_of_their_own(tmp_path):
    """The exporter lets all norms that were never trained share one scale and one shift."""
    by_tracing(ViT().eval(), (torch.randn(2, 3, 8, 8),), tmp_path / "net.onnx")
    initial = {tensor.name for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert not {"norm1.weight", "norm2.weight"} <= initial
    network = taken_in(tmp_path / "net.onnx")
    parts = dict(network.module.named_modules())
    assert parts["norm1"].weight is not parts["norm2"].weight


def test_what_was_read_is_written_again_in_both_formats(tmp_path):
    by_tracing(shaken(ResNet()), (torch.randn(2, 3, 8, 8),), tmp_path / "net.onnx")
    network = taken_in(tmp_path / "net.onnx")
    onnx_format.save(network, tmp_path / "again.onnx")
    pt2.save(network, tmp_path / "again.pt2")
    rows = torch.randn(4, 3, 8, 8)
    wanted = run(tmp_path / "net.onnx", [rows])[0]
    with torch.no_grad():
        for again in (taken_in(tmp_path / "again.onnx"), pt2.load(tmp_path / "again.pt2")):
            np.testing.assert_allclose(again.module(rows), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
            assert again.signature.inputs == network.signature.inputs


def test_an_inspection_tells_what_it_tells_of_a_pt2(tmp_path):
    by_tracing(shaken(ResNet()), (torch.randn(2, 3, 8, 8),), tmp_path / "net.onnx")
    facts = inspect_model(tmp_path / "net.onnx", "onnx")
    assert (facts.format, facts.trainable, facts.quantized) == ("onnx", True, False)
    assert facts.macs == sum(layer.macs for layer in facts.layers) > 0
    assert len({layer.group for layer in facts.layers if layer.group}) == 6
