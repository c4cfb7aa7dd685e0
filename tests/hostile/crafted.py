"""Crafted files, each with the one thing that makes it hostile.

Code that gets to run makes the file that the environment names as MARKER.
"""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile.rezip import GRAPH, SAMPLE, WEIGHTS, edit_json, nested_zip, read_members, write_members

Made = tuple[str, Path]
"""The format a file is uploaded as, and the file."""
COMMAND = 'touch "$MARKER"'


class Payload:
    """Unpickling it runs the command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (COMMAND,)


def make_all(folder: Path, real: Path) -> Iterator[Made]:
    """Write every crafted file. ``real`` is an exported residual network with a dynamic batch."""
    yield from _pt2_graphs(folder, real)
    yield from _pt2_members(folder, real)
    yield from _pickles(folder)
    yield from _archives(folder, real)
    yield from _arrays(folder)
    yield from _tensors(folder)
    yield from _onnx(folder)
    yield from _images(folder)


def _pt2_graphs(folder: Path, real: Path) -> Iterator[Made]:  # noqa: C901 - a table of small changes
    command = f"__import__('os').system({COMMAND!r})"
    names = chr(34) + "+" + command + "+" + chr(34)

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
        "sympify_call": expression(command),
        "sympify_lambda": expression(f"(lambda: {command})()"),
        "sympify_attribute": expression("s77.__class__.__mro__[1].__subclasses__()"),
        "sympify_symbol_text": expression(f"Symbol({command!r})"),
        "sympify_name": expression("exec"),
        "sympify_bomb": expression("9**9**9**9"),
        "sympify_pow_bomb": expression("Pow(Pow(Pow(Integer(9), Integer(8)), Integer(8)), Integer(8))"),
        "sympify_shift_bomb": expression("LShift(1, 99999999999)"),
        "sympify_deep": expression("(" * 3000 + "s0" + ")" * 3000),
        "sympify_long": expression("+".join(["s0"] * 10_000)),
        "sympify_comment": expression("s0 #\n"),
        "guard_call": lambda d: d["guards_code"].append(f"{command} == 0"),
        "guard_attribute": lambda d: d["guards_code"].append("L['x'].__class__.__mro__[0] == 1"),
        "guard_quote": lambda d: d["guards_code"].append(f"L['x{names}'].size()[0] == 1"),
        "guard_lines": lambda d: d["guards_code"].append(f"1 == 1)\n  {command}\n  (1"),
        "guard_walrus": lambda d: d["guards_code"].append("(args := L['x'].size()[0]) == 1"),
        "range_name": lambda d: d["range_constraints"].__setitem__(command, {"min_val": 0, "max_val": 4}),
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
        "node_name": node("name", f"x\n{command}\n"),
        "node_keyword": node("name", "lambda"),
        "input_name": lambda d: rename(d, f"x={command}"),
        "unknown_key": node("surprise", 1),
        "stack_trace": metadata("stack_trace", f'File "a", line 1, in f\r{command}'),
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
        "argument_names": signature("forward_arg_names", [f"x={command}"]),
        "subgraph": argument({"as_graph": {"name": "g", "graph": {}}}),
        "custom_object": argument({"as_custom_obj": {"name": "o", "class_fqn": "__torch__.O"}}),
        "as_operator": argument({"as_operator": "torch.hub.load"}),
        "two_keys": argument({"as_int": 1, "as_bool": True}),
        "device": argument({"as_device": {"type": f"cpu{names}", "index": None}}),
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
    yield from _pt2_weights(folder, real, names)


def _pt2_weights(folder: Path, real: Path, names: str) -> Iterator[Made]:
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
        "name": lambda d: d["config"].update({f"a.{names}": d["config"].pop("head.weight")}),
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


def _pt2_members(folder: Path, real: Path) -> Iterator[Made]:
    _, members = read_members(real)
    code = pickle.dumps(Payload(), protocol=2)
    graph = members[GRAPH]
    _, sample = read_members_of(members[SAMPLE])
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


def read_members_of(content: bytes) -> tuple[str, dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return "archive/", {name.removeprefix("archive/"): archive.read(name) for name in archive.namelist()}


def _pickles(folder: Path) -> Iterator[Made]:
    """Bare pickles and torch.save archives under every extension."""
    payload = Payload()
    for kind in ("pt2", "onnx", "npz", "safetensors", "zip", "tar"):
        for protocol in (0, 2, 4):
            path = folder / f"pickle_{protocol}.{kind}"
            path.write_bytes(pickle.dumps(payload, protocol=protocol))
            yield kind, path
        path = folder / f"saved.{kind}"
        path.write_bytes(nested_zip({"archive/data.pkl": pickle.dumps(payload, protocol=2), "archive/version": b"3"}))
        yield kind, path
        for name, content in {"empty": b"", "text": b"hello world", "zeros": bytes(4096)}.items():
            path = folder / f"{name}.{kind}"
            path.write_bytes(content)
            yield kind, path


def _archives(folder: Path, real: Path) -> Iterator[Made]:
    _, members = read_members(real)
    whole = real.read_bytes()
    for name, content in {
        "data_before": b"MZ" + whole,
        "data_after": whole + b"tail",
        "comment": whole[:-2] + b"\x04\x00tail",
        "count": whole[:-14] + b"\x03\x00\x03\x00" + whole[-10:],
        "directory_twice": whole[:-22] + whole[_directory(whole) :],
    }.items():
        path = folder / f"zip_{name}.pt2"
        path.write_bytes(content)
        yield "pt2", path
    for name, member in {
        "traversal": "../../evil",
        "absolute": "/etc/passwd",
        "backslash": "..\\evil",
        "drive": "C:/evil",
        "dot": "./model/x",
        "control": "model/\x1b[2J",
        "folder": "model/data/",
    }.items():
        path = folder / f"zip_{name}.pt2"
        write_members(path, members)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(member, b"x" if not member.endswith("/") else b"")
        yield "pt2", path
    path = folder / "zip_case.pt2"
    write_members(path, members | {GRAPH.upper(): members[GRAPH]})
    yield "pt2", path
    path = folder / "zip_deflated.pt2"
    write_members(path, members, method=zipfile.ZIP_DEFLATED)
    yield "pt2", path
    path = folder / "zip_link.pt2"
    write_members(path, members)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("model/extra")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    yield "pt2", path
    path = folder / "zip_encrypted.pt2"
    path.write_bytes(_set_flags(whole, 0x1))
    yield "pt2", path
    path = folder / "zip_overlap.pt2"
    path.write_bytes(_overlap(members))
    yield "pt2", path


def _directory(content: bytes) -> int:
    """Give the offset of the archive's directory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.start_dir


def _set_flags(content: bytes, bit: int) -> bytes:
    """Set a flag of the first member in the directory and in its own header."""
    changed = bytearray(content)
    changed[6] |= bit
    changed[_directory(content) + 8] |= bit
    return bytes(changed)


def _overlap(members: dict[str, bytes]) -> bytes:
    """Let the directory's second entry point at the first member."""
    content = bytearray(nested_zip({f"model/{name}": value for name, value in members.items()}))
    first = _directory(bytes(content))
    second = content.index(b"PK\x01\x02", first + 4)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    return bytes(content)


def _npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def _arrays(folder: Path) -> Iterator[Made]:
    good = "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n"
    headers = {
        "object": good.replace("<f4", "|O"),
        "structured": good.replace("'<f4'", "[('a', '<f4')]"),
        "text": good.replace("<f4", "<U4"),
        "void": good.replace("<f4", "|V4"),
        "date": good.replace("<f4", "<M8[s]"),
        "call": "__import__('os').system('touch marker')",
        "two_gigabytes": good.replace("(4,)", "(536870912,)"),
        "negative": good.replace("(4,)", "(-4,)"),
        "huge": good.replace("(4,)", "(99999999999999999999,)"),
        "boolean": good.replace("(4,)", "(True, 4)"),
        "surplus": good.replace("'shape'", "'more': 1, 'shape'"),
        "deep": "(" * 5000,
        "big_endian": good.replace("<f4", ">f4"),
        "rank": good.replace("(4,)", str((1,) * 64)),
    }
    arrays = {f"npy_{name}": {"train.x.npy": _npy(header, bytes(16))} for name, header in headers.items()}
    arrays["npy_version"] = {"train.x.npy": _npy(good, bytes(16), b"\x09\x00")}
    arrays["npy_long"] = {"train.x.npy": _npy(good, bytes(17))}
    arrays["npy_short"] = {"train.x.npy": _npy(good, bytes(15))}
    arrays["npy_member"] = {"train.x.npy": _npy(good, bytes(16)), "run.py": b"x"}
    arrays["npy_traversal"] = {"../train.x.npy": _npy(good, bytes(16))}
    for name, members in arrays.items():
        path = folder / f"{name}.npz"
        path.write_bytes(nested_zip(members))
        yield "npz", path
    path = folder / "bomb.npz"  # a stored member of 8 kB that claims a deflated one of 2 GB
    content = bytearray(nested_zip({"train.x.npy": _npy(good, bytes(8192))}))
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 2**31)
    path.write_bytes(bytes(content))
    yield "npz", path


def _tensors(folder: Path) -> Iterator[Made]:
    def entry(**changes: Any) -> dict[str, Any]:
        return {"train.x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}

    documents: dict[str, Any] = {
        "dtype": entry(dtype="OBJECT"),
        "two_gigabytes": entry(shape=[1 << 29]),
        "negative": entry(shape=[-4]),
        "fraction": entry(shape=[4.0]),
        "beyond": entry(data_offsets=[0, 1 << 30]),
        "reversed": entry(data_offsets=[16, 0]),
        "gap": entry(data_offsets=[4, 20]),
        "surplus": entry(more=1),
        "overlap": entry() | {"train.y": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
        "metadata": entry() | {"__metadata__": {"a": 1}},
        "list": [1],
    }
    texts = {name: json.dumps(document) for name, document in documents.items()}
    texts["duplicate"] = '{"a": {}, "a": {}}'
    texts["deep"] = "[" * 100_000
    texts["nan"] = json.dumps(entry()).replace("16", "NaN")
    for name, text in texts.items():
        path = folder / f"header_{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(16))
        yield "safetensors", path
    for name, length in {"length": 1 << 62, "long": 1 << 31, "short": 3}.items():
        path = folder / f"header_{name}.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(16))
        yield "safetensors", path


def _onnx(folder: Path) -> Iterator[Made]:
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


def _images(folder: Path) -> Iterator[Made]:
    def png(width: int, height: int) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0)

    for name, (member, content) in {
        "pixels": ("train/a/x.png", png(100_000, 100_000)),
        "nothing": ("train/a/x.png", png(0, 9)),
        "script": ("train/a/x.png", b"#!/bin/sh\n"),
        "cut": ("train/a/x.png", png(9, 9)[:18]),
        "jpeg_cut": ("train/a/x.jpg", b"\xff\xd8\xff\xe0\x00"),
        "place": ("x.png", png(9, 9)),
        "traversal": ("../a/x.png", png(9, 9)),
        "absolute": ("/train/a/x.png", png(9, 9)),
    }.items():
        path = folder / f"image_{name}.zip"
        path.write_bytes(nested_zip({member: content}))
        yield "zip", path
        path = folder / f"image_{name}.tar"
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        yield "tar", path
    path = folder / "image_bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/x.png", bytes(100 << 20))
    yield "zip", path
    for name, kind in {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}.items():
        path = folder / f"image_{name}.tar"
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo("train/a/x.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        yield "tar", path
    path = folder / "image_compressed.tar"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("train/a/x.png"))
    yield "tar", path
