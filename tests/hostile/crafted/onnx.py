"""ONNX models that lead elsewhere, or round in circles."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile.crafted.payload import Made


def make_models(folder: Path) -> Iterator[Made]:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], np.ones(4, "<f4").tobytes(), raw=True)

    def model(nodes: list[Any], weights: list[Any] | None = None, **options: Any) -> onnx.ModelProto:
        graph = helper.make_graph(nodes, "g", [x], [y], [weight] if weights is None else weights)
        return helper.make_model(graph, **options)

    def tensor(change: Callable[[TensorProto], Any]) -> onnx.ModelProto:
        made = model([add])
        change(made.graph.initializer[0])
        return made

    def elsewhere(t: TensorProto) -> None:
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        t.external_data.add(key="location", value="/etc/passwd")

    add = helper.make_node("Add", ["x", "w"], ["y"], name="a")
    nested = helper.make_graph([add], "inner", [], [y])
    for _ in range(12):
        nested = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=nested)], "inner", [], [y])
    identity = helper.make_node("Identity", ["x"], ["y"])
    models = {
        "external": tensor(elsewhere),
        "two_gigabytes": tensor(lambda t: t.dims.__setitem__(0, 1 << 29)),
        "negative": tensor(lambda t: t.dims.__setitem__(0, -4)),
        "dtype": tensor(lambda t: setattr(t, "data_type", 99)),
        "strings": tensor(lambda t: (t.ClearField("raw_data"), setattr(t, "data_type", 8))),
        "nan": tensor(lambda t: setattr(t, "raw_data", np.full(4, np.nan, "<f4").tobytes())),
        "cycle": model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Add", ["a", "x"], ["b"])]),
        "duplicate_value": model([add, helper.make_node("Relu", ["x"], ["y"], name="b")]),
        "duplicate_node": model([add, helper.make_node("Relu", ["x"], ["z"], name="a")]),
        "duplicate_weight": model([add], [weight, weight]),
        "domain": model([helper.make_node("Run", ["x"], ["y"], domain="com.evil")]),
        "imported": model([identity], opset_imports=[helper.make_opsetid("com.evil", 1)]),
        "operator": model([helper.make_node("a b", ["x"], ["y"])]),
        "function": model(
            [identity],
            functions=[helper.make_function("", "F", ["a"], ["b"], [identity], [helper.make_opsetid("", 18)])],
        ),
        "deep": model([helper.make_node("If", ["x"], ["y"], then_branch=nested)]),
        "name": model([helper.make_node("Identity", ["x"], ["y"], name="a\n\x1b")]),
    }
    for name, made in models.items():
        path = folder / f"model_{name}.onnx"
        path.write_bytes(made.SerializeToString())
        yield "onnx", path
