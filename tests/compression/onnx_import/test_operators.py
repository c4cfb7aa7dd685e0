"""Each operator of the table, in a small file of its own: reading compares what was read with ONNX Runtime."""

import re
from pathlib import Path

import numpy as np
import pytest

from app.domain.errors import UnsupportedNetwork
from tests.compression.onnx_import.files import by_hand, node, taken_in
from workers.compression.formats.onnx_import.operators import OPERATORS
from workers.compression.formats.onnx_import.sizes import OF_SHAPES

RNG = np.random.default_rng(0)
X = {"x": ["batch", 4, 6, 6]}
ROW = {"x": ["batch", 8]}
SERIES = {"x": ["batch", 4, 12]}
W = RNG.normal(size=(6, 4, 3, 3)).astype("float32")
W1 = RNG.normal(size=(6, 4, 3)).astype("float32")
T = RNG.normal(size=(4, 6, 3, 3)).astype("float32")
M = RNG.normal(size=(8, 5)).astype("float32")
V4, V5, V6, V8 = (RNG.uniform(0.5, 1.5, size).astype("float32") for size in (4, 5, 6, 8))
OURS = {"Embedding", "Linear", "Silu"}
"""What the rewriting makes, of operators that stand in files."""
DOCS = Path(__file__).parents[3] / "docs"
HALVES = np.array([1, 1, 2, 2], "float32")


def ints(*values):
    return np.array(values, "int64")


def one(op, given=ROW, weights=None, inputs=("x",), opset=18, outputs=("y",), **attributes):
    """Describe a file of one operator."""
    return [node(op, inputs, outputs, **attributes)], given, weights or {}, opset


def positive(op):
    """Put the operator behind what makes its input positive."""
    return [node("Abs", ["x"], ["p"]), node("Add", ["p", "w"], ["q"]), node(op, ["q"])], ROW, {"w": V8}, 18


def truth(*nodes, weights=None):
    """Put operators on truths, which are no outputs, between comparisons and a cast."""
    before = [node("Greater", ["x", "w"], ["t"]), node("Less", ["x", "v"], ["s"])]
    return [*before, *nodes, node("Cast", ["z"], ["y"], to=1)], ROW, {"w": V8 - 1, "v": V8, **(weights or {})}, 18


def comparison(op):
    return [node(op, ["x", "w"], ["z"]), node("Cast", ["z"], ["y"], to=1)], ROW, {"w": V8 - 1}, 18


CASES = {
    "Add": one("Add", weights={"w": V8}, inputs="xw"),
    "Sub from a number": one("Sub", weights={"w": np.float32(2)}, inputs="wx"),
    "Mul": one("Mul", weights={"w": np.float32(0.3)}, inputs="xw"),
    "Div": one("Div", weights={"w": V8}, inputs="xw"),
    "Pow": one("Pow", weights={"w": np.float32(3)}, inputs="xw"),
    "Mod": one("Mod", weights={"w": np.float32(0.7)}, inputs="xw", fmod=1),
    **{op: one(op) for op in ("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
            "LeakyRelu",
                              "Mish", "Neg", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Softplus",
                              "Softsign", "Tan", "Tanh", "ThresholdedRelu", "Celu", "Identity", "LpNormalization",
                              "Dropout")},
    "Gelu": one("Gelu", opset=20), "Gelu by tanh": one("Gelu", opset=20, approximate="tanh"),
    **{op: positive(op) for op in ("Log", "Reciprocal", "Sqrt")},
    **{op: comparison(op) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{op: truth(node(op, ["t", "s"], ["z"])) for op in ("And", "Or", "Xor")},
    "Not": truth(node("Not", ["t"], ["z"])),
    "IsNaN": truth(node("IsNaN", ["x"], ["z"])), "IsInf": truth(node("IsInf", ["x"], ["z"])),
    "Where": ([node("Greater", ["x", "w"], ["t"]), node("Where", ["t", "x", "w"])], ROW, {"w": V8}, 18),
    "Max": one("Max", weights={"w": V8}, inputs="xw"), "Min": one("Min", weights={"w": V8 - 1}, inputs="xw"),
    "Sum": one("Sum", weights={"w": V8}, inputs="xwx"),
    "Clip": one("Clip", weights={"a": np.float32(-0.5), "b": np.float32(0.4)}, inputs="xab"),
    "Clip at six": one("Clip", weights={"a": np.float32(0), "b": np.float32(6)}, inputs="xab"),
    "Clip of old": one("Clip", opset=9, min=0.1, max=0.7),
    "PRelu": one("PRelu", X, {"w": V4.reshape(4, 1, 1)}, "xw"),
    "PRelu each": one("PRelu", weights={"w": V8}, inputs="xw"),
    "Conv": one("Conv", X, {"w": W, "b": V6}, "xwb", pads=[1, 1, 1, 1], strides=[2, 2]),
    "Conv uneven": one("Conv", X, {"w": W}, "xw", pads=[0, 1, 2, 1]),
    "Conv same": one("Conv", X, {"w": W}, "xw", auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv lower": one("Conv", X, {"w": W}, "xw", auto_pad="SAME_LOWER", strides=[2, 2]),
    "Conv grouped": one("Conv", X, {"w": W[:4, :1]}, "xw", group=4, dilations=[2, 2]),
    "Conv of series": one("Conv", SERIES, {"w": W1, "b": V6}, "xwb", pads=[2, 2], dilations=[2]),
    "Conv of volumes": one("Conv", {"x": ["batch", 4, 4, 4, 4]},
            {"w": RNG.normal(size=(3, 4, 2, 2, 2)).astype("f4")}, "xw"),
    "ConvTranspose": one("ConvTranspose", X, {"w": T, "b": V6}, "xwb", strides=[2, 2], pads=[1, 1, 1, 1],
                         output_padding=[1, 1]),
    "Gemm": one("Gemm", weights={"w": M, "b": V5}, inputs="xwb", alpha=0.5, beta=2.0),
    "Gemm across": one("Gemm", weights={"w": M.T, "b": V5}, inputs="xwb", transB=1),
    "Gemm of two": ([node("Gemm", ["x", "x"], transB=1)], {"x": [8, 8]}, {}, 18),
    "MatMul": one("MatMul", weights={"w": M}, inputs="xw"),
    "MatMul of two": ([node("Transpose", ["x"], ["z"], perm=[0, 2, 1]), node("MatMul", ["x", "z"])], SERIES, {}, 18),
    "Einsum": one("Einsum", SERIES, inputs=("x", "x"), equation="bcl,bdl->bcd"),
    "BatchNormalization": one("BatchNormalization", X, {"w": V4, "b": V4, "m": V4, "v": V4}, "xwbmv", opset=15),
    "LayerNormalization": one("LayerNormalization", weights={"w": V8, "b": V8}, inputs="xwb"),
    "RMSNormalization": one("RMSNormalization", weights={"w": V8}, inputs="xw", opset=23),
    "GroupNormalization": one("GroupNormalization", X, {"w": V4, "b": V4}, "xwb", opset=21, num_groups=2),
    "InstanceNormalization": one("InstanceNormalization", X, {"w": V4, "b": V4}, "xwb"),
    "LRN": one("LRN", X, size=3),
    "MaxPool": one("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool uneven": one("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
    "MaxPool to the end": one("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "MaxPool of series": one("MaxPool", SERIES, kernel_shape=[3], strides=[2]),
    "AveragePool": one("AveragePool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "AveragePool of all": one("AveragePool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "AveragePool uneven": one("AveragePool", X, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
    "GlobalAveragePool": one("GlobalAveragePool", X), "GlobalMaxPool": one("GlobalMaxPool", X),
    "Pad": one("Pad", X, {"p": ints(0, 1, 0, 2, 0, 0, 1, 1)}, "xp"),
    "Pad by reflection": one("Pad", X, {"p": ints(0, 0, 1, 2, 0, 0, 1, 1)}, "xp", mode="reflect"),
    "Pad by the edge": one("Pad", X, {"p": ints(0, 0, 1, 2, 0, 0, 1, 1)}, "xp", mode="edge"),
    "Pad of old": one("Pad", X, opset=9, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5),
    "Resize": one("Resize", X, {"s": np.array([1, 1, 2, 2], "f4")}, ("x", "", "s"), mode="nearest",
                  coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "Resize by default": one("Resize", X, {"s": HALVES}, ("x", "", "s")),
    "Resize linear": one("Resize", X, {"s": HALVES}, ("x", "", "s"), mode="linear"),
    "Resize to corners": one("Resize", {"x": [2, 4, 6, 6]}, {"s": ints(2, 4, 9, 11)}, ("x", "", "", "s"), mode="linear",
                             coordinate_transformation_mode="align_corners"),
    "Resize cubic": one("Resize", X, {"s": HALVES}, ("x", "", "s"), mode="cubic"),
    "Upsample": one("Upsample", X, {"s": HALVES}, "xs", opset=9),
    "Concat": one("Concat", X, inputs=("x", "x"), axis=1),
    "Flatten": one("Flatten", X), "Flatten elsewhere": one("Flatten", X, axis=2),
    "Reshape": one("Reshape", X, {"s": ints(0, 2, -1, 6)}, "xs"),
    "Squeeze": ([node("Unsqueeze", ["x", "a"], ["z"]), node("Squeeze", ["z", "a"])], ROW, {"a": ints(1)}, 18),
    "Squeeze of old": ([node("Unsqueeze", ["x"], ["z"], axes=[1, 2]), node("Squeeze", ["z"], axes=[1])], ROW, {}, 11),
    "Transpose": one("Transpose", X, perm=[0, 2, 3, 1]),
    "Slice": one("Slice", X, {"a": ints(1, 0), "b": ints(3, 9), "c": ints(1, 2), "d": ints(1, 2)}, "xabcd"),
    "Slice of old": one("Slice", X, opset=9, starts=[1], ends=[-1], axes=[2]),
    "Slice backwards": one("Slice", X, {"a": ints(-1), "b": ints(-99), "c": ints(3), "d": ints(-1)}, "xabcd"),
    "Split": one("Split", ROW, {"s": ints(3, 5)}, "xs", axis=1, outputs=("z", "y")),
    "Split of old": one("Split", ROW, opset=11, axis=1, split=[3, 5], outputs=("z", "y")),
    "Gather": one("Gather", X, {"i": ints(2, 0)}, "xi", axis=1),
    "Gather one": one("Gather", X, {"i": ints(1)[0]}, "xi", axis=2),
    "GatherElements": one("GatherElements", ROW, {"i": np.zeros((2, 3), "int64") - 1}, "xi", axis=1),
    "GatherND": one("GatherND", {"x": [4, 5]}, {"i": np.array([[0, 1], [3, 2]])}, "xi"),
    "Expand": one("Expand", {"x": ["batch", 1, 4]}, {"s": ints(3, 1)}, "xs"),
    "Tile": one("Tile", ROW, {"s": ints(1, 3)}, "xs"),
    "Trilu": one("Trilu", X, {"k": ints(1)[0]}, "xk", upper=0),
    "DepthToSpace": one("DepthToSpace", X, blocksize=2),
    "DepthToSpace CRD": one("DepthToSpace", X, blocksize=2, mode="CRD"),
    "SpaceToDepth": one("SpaceToDepth", X, blocksize=2),
    "ScatterElements": one("ScatterElements", {"x": [3, 3]}, {"i": ints(1, 0).reshape(1, 2),
    "u": V4[:2].reshape(1, 2)}, "xiu"),
    "ScatterND": one("ScatterND", {"x": [4, 3]}, {"i": ints(1, 3).reshape(2, 1), "u": np.ones((2, 3), "f4")}, "xiu"),
    **{op: one(op, X, axes=[2, 3], opset=13) for op in ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax",
                                                        "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare")},
    "ReduceSum": one("ReduceSum", X, {"a": ints(1)}, "xa", keepdims=0),
    "ReduceMean of new": one("ReduceMean", X, {"a": ints(-1)}, "xa", opset=18),
    "Softmax": one("Softmax", X, axis=1), "Softmax of old": one("Softmax", X, opset=11, axis=2),
    "LogSoftmax": one("LogSoftmax", ROW),
    "CumSum": one("CumSum", ROW, {"a": ints(1)[0]}, "xa"),
    "TopK": one("TopK", ROW, {"k": ints(3)}, "xk", outputs=("y", "places")),
    "ArgMax": ([node("ArgMax", ["x"], ["i"], axis=1), node("Cast", ["i"], ["y"], to=1)], ROW, {}, 18),
    "ArgMin": ([node("ArgMin", ["x"], ["i"], axis=1), node("Cast", ["i"], ["y"], to=1)], ROW, {}, 18),
    "OneHot": ([node("ArgMax", ["x"], ["i"], axis=1, keepdims=0), node("OneHot", ["i", "d", "v"])], ROW,
               {"d": ints(8), "v": np.array([0, 1], "f4")}, 18),
    "Range": ([node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["n"]), node("Range", ["zero", "n", "one"],
            ["r"]),
               node("Cast", ["r"], ["f"], to=1), node("Mul", ["x", "f"])], ROW,
            {"zero": ints(0)[0], "one": ints(1)[0]}, 18),
    "ConstantOfShape": ([node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["z"]), node("Add", ["x", "z"])],
                        ROW, {}, 18),
    "Size": ([node("Size", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=1), node("Div", ["x", "f"])],
            {"x": [2, 4]}, {}, 18),
    "a width as its own scale": ([
        node("Shape", ["x"], ["s"]), node("Slice", ["s", "one", "two"], ["n"]), node("Cast", ["n"], ["f"], to=1),
        node("Sqrt", ["f"], ["r"]), node("Div", ["x", "r"])], ROW, {"one": ints(1), "two": ints(2)}, 18),
    "Embedding": ([node("Gather", ["w", "i"])], {"i": ("int64", ["batch", 3])}, {"w": M}, 18),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_the_runtime_computes(name, tmp_path):
    nodes, inputs, weights, opset = CASES[name]
    by_hand(tmp_path / "net.onnx", nodes, inputs, ["y"], weights, opset=opset)
    network = taken_in(tmp_path / "net.onnx")
    dynamic = "batch" in str(inputs)
    assert (network.signature.inputs[0].shape[0] == "batch") == dynamic
    assert network.module.graph.output_node().all_input_nodes, "it computes something"


def test_every_operator_of_the_table_is_tried():
    tried = {node.op_type for nodes, *_ in CASES.values() for node in nodes}
    assert set(OPERATORS) - tried == OURS
    assert set(OF_SHAPES) <= tried


def test_the_list_of_operators_in_the_documentation_is_the_table():
    listed = (DOCS / "onnx.md").read_text().split("## Operators")[1]
    assert set(re.findall(r"`(\w+)`", listed)) == set(OPERATORS) - OURS | {"Constant", "If"}


@pytest.mark.parametrize(
    ("nodes", "weights", "words"),
    [
        ([node("MaxPool", ["x"], ["y", "places"], kernel_shape=[2, 2])], {}, "places of its maxima"),
        ([node("AveragePool", ["x"], kernel_shape=[2, 2], dilations=[2, 2])], {}, "dilations"),
        ([node("CumSum", ["x", "a"], reverse=1)], {"a": ints(1)[0]}, "backwards"),
        ([node("ArgMax", ["x"], ["i"], select_last_index=1), node("Cast", ["i"], ["y"], to=1)], {}, "last of equals"),
    ],
)
def test_what_an_operator_does_not_do_is_named(nodes, weights, words, tmp_path):
    by_hand(tmp_path / "net.onnx", nodes, X, ["y"], weights, opset=19)
    with pytest.raises(UnsupportedNetwork, match=words):
        taken_in(tmp_path / "net.onnx")
