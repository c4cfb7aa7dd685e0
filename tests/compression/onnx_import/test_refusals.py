"""What is not read is refused by name, at once, with what to do."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from app.domain.errors import CorruptFile, UnsafeFile, UnsupportedNetwork
from tests.compression.architectures import Recurrent
from tests.compression.onnx_import.files import by_hand, by_tracing, node, taken_in

X = {"x": ["batch", 4]}
W = np.ones((4, 4), "float32")


def refused(path, error=UnsupportedNetwork):
    with pytest.raises(error) as caught:
        taken_in(path)
    return caught.value


def test_all_missing_operators_are_told_at_once_with_where_they_stand(tmp_path):
    nodes = [
        node("Hardmax", ["x"], ["a"]),
        helper.make_node("Det", ["m"], ["b"], name="second"),
        helper.make_node("Hardmax", ["a"], ["c"], name="third"),
        node("Add", ["c", "b"]),
    ]
    by_hand(tmp_path / "net.onnx", nodes, {**X, "m": [3, 3]}, ["y"])
    error = refused(tmp_path / "net.onnx")
    assert error.detail == "These operators are not read: Det (second); Hardmax (a_hardmax, third)."
    assert ".pt2" in error.hint


def test_recurrent_layers_are_refused_by_name(tmp_path):
    by_tracing(Recurrent().eval(), (torch.randn(2, 3, 16),), tmp_path / "net.onnx")
    error = refused(tmp_path / "net.onnx")
    assert error.detail == "These operators are not read: LSTM (/lstm/LSTM)."
    assert ".pt2" in error.hint


def test_a_loop_and_a_branch_on_values_are_refused_by_name(tmp_path):
    branch = helper.make_graph([node("Relu", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, [1, 4])])
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        node("If", ["c"], then_branch=branch, else_branch=branch),
    ]
    by_hand(tmp_path / "net.onnx", nodes, X, ["y"])
    error = refused(tmp_path / "net.onnx")
    assert "If (a_if)" in error.detail
    assert "condition" in error.hint
    entering = [helper.make_tensor_value_info(*each) for each in (("i", 7, []), ("go", 9, []), ("v", 1, [4]))]
    leaving = [helper.make_tensor_value_info(*each) for each in (("on", 9, []), ("w", 1, [4]))]
    nodes = [node("Identity", ["go"], ["on"]), node("Relu", ["v"], ["w"])]
    body = helper.make_graph(nodes, "body", entering, leaving)
    by_hand(tmp_path / "net.onnx", [node("Loop", ["n", "", "x"], body=body)], {"x": [4], "n": ("int64", [])}, ["y"])
    assert "Loop (a_loop)" in refused(tmp_path / "net.onnx").detail


def test_quantized_files_are_refused_as_such(tmp_path):
    weights = {"s": np.float32(0.1), "z": np.uint8(3)}
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"])]
    by_hand(tmp_path / "net.onnx", nodes, X, ["y"], weights)
    error = refused(tmp_path / "net.onnx")
    assert error.detail == (
        "The network is quantized already: QuantizeLinear (a_quantizelinear) is one of 2 such operators."
    )
    assert "float network" in error.hint
    assert "float network" in error.hint


def test_operators_of_a_runtime_of_its_own_are_refused_by_their_domain(tmp_path):
    by_hand(tmp_path / "net.onnx", [node("Relu", ["x"])], X, ["y"])
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.node[0].op_type, model.graph.node[0].domain = "MatMulNBits", "com.microsoft"
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    error = refused(tmp_path / "net.onnx", UnsafeFile)
    assert "com.microsoft" in error.detail
    assert "float network" in error.hint


def test_other_floats_are_refused_by_name(tmp_path):
    by_hand(tmp_path / "net.onnx", [node("MatMul", ["x", "w"])], X, ["y"], {"w": W.astype("float16")})
    error = refused(tmp_path / "net.onnx")
    assert error.detail == "The weight 'w' is float16; networks are taken in float32."
    assert "model.float()" in error.hint
    with torch.no_grad():
        by_tracing(nn.Linear(4, 2).double(), (torch.randn(2, 4).double(),), tmp_path / "net.onnx")
    assert "float64" in refused(tmp_path / "net.onnx").detail


def test_old_operator_sets_and_damaged_graphs_are_refused(tmp_path):
    path = tmp_path / "net.onnx"
    by_hand(path, [node("Relu", ["x"])], X, ["y"], opset=8)
    assert "operator set 8" in refused(path).detail
    by_hand(path, [node("Relu", ["x"], alpha=1.0)], X, ["y"])
    error = refused(path, CorruptFile)
    assert "no valid ONNX model" in error.detail
    assert "onnx.checker" in error.hint
    by_hand(path, [node("MatMul", ["x", "w"])], X, ["y"], {"w": np.ones((4, 4), "int64")})
    assert refused(path, CorruptFile).detail.startswith("ONNX Runtime cannot run the file")


def test_what_computes_something_else_than_the_file_is_refused(tmp_path):
    """Torch has one cubic curve alone."""
    scales = np.array([1, 1, 2, 2], "float32")
    resize = node("Resize", ["x", "", "s"], mode="cubic", cubic_coeff_a=-0.5)
    by_hand(tmp_path / "net.onnx", [resize], {"x": ["batch", 2, 8, 8]}, ["y"], {"s": scales})
    error = refused(tmp_path / "net.onnx")
    assert "from what ONNX Runtime computes of the file" in error.detail
    assert error.code == "unsupported_network"


def test_a_graph_whose_attributes_make_no_sense_is_refused(tmp_path):
    by_hand(tmp_path / "net.onnx", [node("Transpose", ["x"], perm=[1, 0])], X, ["y"])
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.node[0].attribute[0].ints[:] = [7, 0]
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert refused(tmp_path / "net.onnx", (UnsupportedNetwork, CorruptFile)).hint is None


def test_no_size_that_the_file_runs_with(tmp_path):
    weight = np.ones((7, 2), "float32")
    by_hand(tmp_path / "net.onnx", [node("MatMul", ["x", "w"])], {"x": ["batch", "length"]}, ["y"], {"w": weight})

    error = refused(tmp_path / "net.onnx")
    assert "none of the sizes tried" in error.detail
    assert "fixed sizes" in error.hint


def test_a_size_that_is_dynamic_in_name_alone_is_told(tmp_path):
    weights = {"w": np.ones((1, 64), "float32")}
    by_hand(tmp_path / "net.onnx", [node("Add", ["x", "w"])], {"x": ["batch", "length"]}, ["y"], weights)
    error = refused(tmp_path / "net.onnx", UnsupportedNetwork)
    assert error.detail == "Dimension 1 of the input 'x' is said to be dynamic; the graph holds for 64 alone."
    assert error.hint == "Export it with that size fixed."


def test_a_file_that_does_not_run_with_its_own_sizes_is_not_asked_for_fixed_ones(tmp_path):
    weights = {"s": np.array([7, 3]), "w": np.ones((3, 4), "float32")}
    nodes = [node("Reshape", ["x", "s"], ["r"]), node("MatMul", ["r", "w"])]
    by_hand(tmp_path / "net.onnx", nodes, {"x": ["batch", 5]}, ["y"], weights)
    error = refused(tmp_path / "net.onnx", UnsupportedNetwork)
    assert "does not run with its own inputs, x of ['batch', 5]" in error.detail
    assert "fixed sizes" not in error.hint
