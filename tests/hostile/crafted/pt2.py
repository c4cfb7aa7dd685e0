"""Exported networks with a graph, a weight or a member that no export writes."""

import io
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.crafted.payload import COMMAND, Made, Payload
from tests.hostile.rezip import GRAPH, SAMPLE, WEIGHTS, edit_json, nested_zip, read_members, write_members

_CALL = f"__import__('os').system({COMMAND!r})"
_OUT_OF_QUOTES = f'"+{_CALL}+"'


def make_graphs(folder: Path, real: Path) -> Iterator[Made]:  # noqa: C901 - a table of small changes
    def graph(document: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = document["graph_module"]["graph"]
        return found

    def sizes(document: dict[str, Any]) -> list[Any]:
        found: list[Any] = graph(document)["tensor_values"]["x"]["sizes"]
        return found

    def expression(text: str) -> Callable[[dict[str, Any]], None]:
        return lambda d: sizes(d).__setitem__(0, {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}})

    def target(name: str) -> Callable[[dict[str, Any]], None]:
        return lambda d: graph(d)["nodes"][0].__setitem__("target", name)

    def node(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
        return lambda d: graph(d)["nodes"][0].__setitem__(key, value)

    def metadata(key: str, value: str) -> Callable[[dict[str, Any]], None]:
        return lambda d: graph(d)["nodes"][0]["metadata"].__setitem__(key, value)

    def signature(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
        return lambda d: d["graph_module"]["module_call_graph"][0]["signature"].__setitem__(key, value)

    def argument(value: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        return lambda d: graph(d)["nodes"][0]["inputs"][0].__setitem__("arg", value)

    def rename(d: dict[str, Any], name: str) -> None:
        text = json.dumps(graph(d)).replace('"x"', json.dumps(name))
        d["graph_module"]["graph"] = json.loads(text)

    def tree(kind: str, context: str) -> str:
        return json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "sympify_call": expression(_CALL),
        "sympify_lambda": expression(f"(lambda: {_CALL})()"),
        "sympify_attribute": expression("s77.__class__.__mro__[1].__subclasses__()"),
        "sympify_symbol_text": expression(f"Symbol({_CALL!r})"),
        "sympify_name": expression("exec"),
        "sympify_bomb": expression("9**9**9**9"),
        "sympify_pow_bomb": expression("Pow(Pow(Pow(Integer(9), Integer(8)), Integer(8)), Integer(8))"),
        "sympify_shift_bomb": expression("LShift(1, 99999999999)"),
        "sympify_deep": expression("(" * 3000 + "s0" + ")" * 3000),
        "sympify_long": expression("+".join(["s0"] * 10_000)),
        "sympify_comment": expression("s0 #\n"),
        "guard_call": lambda d: d["guards_code"].append(f"{_CALL} == 0"),
        "guard_attribute": lambda d: d["guards_code"].append("L['x'].__class__.__mro__[0] == 1"),
        "guard_quote": lambda d: d["guards_code"].append(f"L['x{_OUT_OF_QUOTES}'].size()[0] == 1"),
        "guard_lines": lambda d: d["guards_code"].append(f"1 == 1)\n  {_CALL}\n  (1"),
        "guard_walrus": lambda d: d["guards_code"].append("(args := L['x'].size()[0]) == 1"),
        "range_name": lambda d: d["range_constraints"].__setitem__(_CALL, {"min_val": 0, "max_val": 4}),
        "operator_load_library": target("torch.ops.load_library"),
        "operator_hub": target("torch.hub.load"),
        "operator_getattr": target("torch.os.system"),
        "operator_attrgetter": target("_operator.attrgetter"),
        "operator_methodcaller": target("_operator.methodcaller"),
        "operator_from_file": target("torch.ops.aten.from_file.default"),
        "operator_set": target("torch.ops.aten.set_.source_Storage"),
        "operator_extension": target("#inductor:anything"),
        "operator_foreign": target("torch.ops.mine.run.default"),
        "operator_save": target("torch.save"),
        "operator_math": target("math.factorial"),
        "node_name": node("name", f"x\n{_CALL}\n"),
        "node_keyword": node("name", "lambda"),
        "input_name": lambda d: rename(d, f"x={_CALL}"),
        "unknown_key": node("surprise", 1),
        "stack_trace": metadata("stack_trace", f'File "a", line 1, in f\r{_CALL}'),
        "metadata_key": metadata("surprise", "1"),
        "source_fn": metadata("source_fn_stack", 'x,torch.os.system("touch")'),
        "from_node_deep": metadata("from_node", "[" * 5000 + "]" * 5000),
        "tree_kind": signature("out_spec", tree("torch.nn.Module", "null")),
        "tree_namedtuple": signature("out_spec", tree("collections.namedtuple", '"os.system"')),
        "tree_defaultdict": signature("out_spec", tree("collections.defaultdict", '{"default_factory_name": "exec"}')),
        "tree_enum": signature(
            "out_spec", tree("builtins.dict", '[{"__enum__": true, "fqn": "os.system", "name": "x"}]')
        ),
        "tree_deep": signature("in_spec", "[1," + '{"type":"builtins.list","context":"null","children_spec":[' * 500),
        "argument_names": signature("forward_arg_names", [f"x={_CALL}"]),
        "subgraph": argument({"as_graph": {"name": "g", "graph": {}}}),
        "custom_object": argument({"as_custom_obj": {"name": "o", "class_fqn": "__torch__.O"}}),
        "as_operator": argument({"as_operator": "torch.hub.load"}),
        "two_keys": argument({"as_int": 1, "as_bool": True}),
        "device": argument({"as_device": {"type": f"cpu{_OUT_OF_QUOTES}", "index": None}}),
        "cycle": lambda d: graph(d)["nodes"].reverse(),
        "duplicate_node": lambda d: graph(d)["nodes"].append(graph(d)["nodes"][0]),
        "output_unknown": lambda d: graph(d)["outputs"].append({"as_tensor": {"name": "nothing"}}),
        "absurd_shape": lambda d: sizes(d).__setitem__(1, {"as_int": 1 << 39}),
        "negative_shape": lambda d: sizes(d).__setitem__(1, {"as_int": -1}),
        "wide_shape": lambda d: sizes(d).extend([{"as_int": 1}] * 1000),
        "dtype": lambda d: graph(d)["tensor_values"]["x"].__setitem__("dtype", 99),
        "verifier": lambda d: d["verifiers"].append("os.system"),
        "schema": lambda d: d["schema_version"].__setitem__("major", 0),
    }
    for name, change in changes.items():
        path = folder / f"graph_{name}.pt2"
        edit_json(real, path, GRAPH, change)
        yield "pt2", path


def make_weights(folder: Path, real: Path) -> Iterator[Made]:
    def weight(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        return lambda d: change(d["config"]["head.weight"])

    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "pickled": weight(lambda w: w.update(use_pickle=True, tensor_meta=None)),
        "path": weight(lambda w: w.update(path_name="../../etc/passwd")),
        "missing": weight(lambda w: w.update(path_name="weight_999")),
        "claim": weight(lambda w: w["tensor_meta"].update(sizes=[{"as_int": 1 << 15}, {"as_int": 1 << 14}])),
        "stride": weight(lambda w: w["tensor_meta"]["strides"].__setitem__(0, {"as_int": 1 << 30})),
        "offset": weight(lambda w: w["tensor_meta"].update(storage_offset={"as_int": 1 << 30})),
        "expression": weight(
            lambda w: w["tensor_meta"]["sizes"].__setitem__(0, {"as_expr": {"expr_str": "s0", "hint": None}})
        ),
        "layout": weight(lambda w: w["tensor_meta"].update(layout=1)),
        "dtype": weight(lambda w: w["tensor_meta"].update(dtype=8)),
        "name": lambda d: d["config"].update({f"a.{_OUT_OF_QUOTES}": d["config"].pop("head.weight")}),
        "dunder": lambda d: d["config"].update({"a.__class__": d["config"].pop("head.weight")}),
    }
    for name, change in changes.items():
        path = folder / f"weight_{name}.pt2"
        edit_json(real, path, WEIGHTS, change)
        yield "pt2", path
    _, members = read_members(real)
    head = json.loads(members[WEIGHTS])["config"]["head.weight"]["path_name"]
    for name, value in {"nan": np.nan, "inf": np.inf, "negative_inf": -np.inf}.items():
        path = folder / f"weight_{name}.pt2"
        numbers = np.frombuffer(members[f"data/weights/{head}"], "<f4").copy()
        numbers[7] = value
        write_members(path, members | {f"data/weights/{head}": numbers.tobytes()})
        yield "pt2", path
    path = folder / "weight_empty_claim.pt2"  # torch allocates what an empty payload claims
    config = json.loads(members[WEIGHTS])
    meta = config["config"]["head.weight"]["tensor_meta"]
    meta.update(sizes=[{"as_int": 1 << 29}], strides=[{"as_int": 1}])
    changed = {WEIGHTS: json.dumps(config).encode(), f"data/weights/{head}": b""}
    write_members(path, members | changed)
    yield "pt2", path


def make_members(folder: Path, real: Path) -> Iterator[Made]:
    _, members = read_members(real)
    code = pickle.dumps(Payload(), protocol=2)
    graph = members[GRAPH]
    _, sample = read_members(io.BytesIO(members[SAMPLE]))
    bomb = b"".join([b"\x80\x02]q\x00", *(b"(h\x00" + b"h\x00" * 9 + b"tq\x00" for _ in range(12)), b"}\x86."])
    samples = {
        "global": code,
        "stack_global": pickle.dumps(Payload(), protocol=4),
        "laughs": bomb,
        "memo": b"\x80\x02]r\xff\xff\xff\x7f.",
        "build": sample["data.pkl"].replace(b"collections\nOrderedDict", b"types\nSimpleNamespace"),
        "tail": sample["data.pkl"] + code,
    }
    changes: dict[str, dict[str, bytes]] = {
        "aotinductor": {"data/aotinductor/model/model.so": b"\x7fELF"},
        "custom_object": {"data/constants/custom_obj_0": code},
        "opaque_object": {"data/constants/opaque_obj_0": code},
        "legacy_weights": {"data/weights/model.pt": code},
        "legacy_constants": {"data/constants/model.pt": code},
        "second_model": {"models/other.json": graph},
        "torchscript": {"code/__torch__.py": b"import os", "constants.pkl": code},
        "executorch": {"executorch/model.pte": b"x"},
        "extra": {"extra/run.sh": b"x"},
        "stray_weight": {"data/weights/weight_999": b"x" * 64},
        "big_endian": {"byteorder": b"big"},
        "version": {"archive_version": b"99"},
        "duplicate_key": {GRAPH: graph.replace(b'{"graph_module"', b'{"guards_code": [], "graph_module"', 1)},
        "nan_json": {GRAPH: graph.replace(b'"as_float": 1e-05', b'"as_float": NaN', 1)},
        "deep_json": {GRAPH: b"[" * 100_000},
        "long_number": {GRAPH: graph.replace(b'"as_int": 8', b'"as_int": ' + b"9" * 10_000, 1)},
        "no_utf8": {GRAPH: b"\xff\xfe" + graph},
        "sample_pickle": {SAMPLE: code},
        "sample_zip_script": {SAMPLE: nested_zip({"archive/data.pkl": code, "archive/constants.pkl": code})},
    }
    for name, stream in samples.items():
        nested = {f"archive/{each}": content for each, content in (sample | {"data.pkl": stream}).items()}
        changes[f"sample_{name}"] = {SAMPLE: nested_zip(nested)}
    for name, change in changes.items():
        path = folder / f"member_{name}.pt2"
        write_members(path, members | change)
        yield "pt2", path
    for name in (GRAPH, WEIGHTS, SAMPLE, "archive_format"):
        path = folder / f"lacks_{Path(name).name}.pt2"
        write_members(path, {each: content for each, content in members.items() if each != name})
        yield "pt2", path
