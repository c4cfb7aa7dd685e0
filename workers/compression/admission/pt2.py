"""Admit ``torch.export`` archives: ``torch.export.load`` runs code from what it reads (see docs/adr/0005).

Each way from the file to code or to memory is closed by a list: members, operators, the grammars of expressions,
container types, names, dtypes, and sizes against payloads.
"""

import math
import re
from functools import cache
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from app.domain.errors import CorruptFile, NonFiniteWeights, UnsafeFile
from workers.compression.admission import strict_json
from workers.compression.admission.archive import Archive, Limits
from workers.compression.admission.expressions import SYMBOL, check_guard, check_shape
from workers.compression.admission.finite import find_nonfinite
from workers.compression.admission.pt2_schema import (
    ITEM_BYTES,
    Argument,
    Graph,
    Metadata,
    Node,
    Payload,
    PayloadConfig,
    Program,
    SymBool,
    SymFloat,
    SymInt,
    TensorMeta,
)
from workers.compression.admission.sample_inputs import MAX_BYTES, check_extent, check_sample_inputs
from workers.compression.admission.trees import check_tree

OPERATORS_FILE = Path(__file__).with_name("operators.txt")
MAX_TENSOR_BYTES = 1 << 36
_LIMITS = Limits(members=100_000, member_bytes=1 << 36, total_bytes=1 << 36, ratio=1)
_MAX_JSON_BYTES = 128 << 20
_HOW = "Export the network with torch.export.export and write it with torch.export.save."
_FLAT = "Export under torch.no_grad(), which blocks without gradients inside the network need, and without torch.cond."
_GRAPH, _WEIGHTS, _CONSTANTS, _SAMPLE = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
    "data/sample_inputs/model.pt",
)
_MARKS = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_FIXED = frozenset({_GRAPH, _WEIGHTS, _CONSTANTS, _SAMPLE, *_MARKS, ".data/version", ".data/serialization_id"})
_PAYLOAD = re.compile(r"data/(?:weights/weight|constants/tensor)_[0-9]{1,9}")
_KINDS = {
    "data/aotinductor/": "compiled native code (AOTInductor)",
    "data/constants/custom_obj_": "a pickled custom object",
    "data/constants/opaque_obj_": "a pickled object",
    "code/": "TorchScript code",
    "extra/": "an extra file",
    "executorch/": "an ExecuTorch program",
}
_FLOATS = {6: "float16", 7: "float32", 8: "float64", 13: "bfloat16"}
_PICKLES = (b"\x80", b"(", b"c", b"}", b"]")
_Model = TypeVar("_Model", bound=BaseModel)


def admit_pt2(path: Path) -> None:
    """Raise UnsafeFile or CorruptFile unless torch can load the archive without running anything from it."""
    _check_start(path)
    with Archive.open(path, _LIMITS) as archive:
        root = _check_members(archive)
        program = _parse(Program, archive.read(root + _GRAPH, _MAX_JSON_BYTES), _GRAPH)
        check_sample_inputs(archive.read(root + _SAMPLE, MAX_BYTES), _SAMPLE)
        unread = {name for name in archive.members if _PAYLOAD.fullmatch(name.removeprefix(root))}
        for config, folder in ((_WEIGHTS, "data/weights/"), (_CONSTANTS, "data/constants/")):
            unread -= _check_payloads(archive, root, config, folder)
        if unread:
            raise UnsafeFile(f"The archive holds {min(unread)!r}, which nothing refers to.", hint=_HOW)
        for name in (".data/version", ".data/serialization_id"):
            if root + name in archive.members and not archive.read(root + name, 256).strip().isalnum():
                raise UnsafeFile(f"The archive's member {name!r} is no number.", hint=_HOW)
    _check_program(program)


def _check_start(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(4)
    if start.startswith(_PICKLES):
        raise UnsafeFile("The file is a pickle, which runs code when it is loaded.", hint=_HOW)
    if start != b"PK\x03\x04":
        raise CorruptFile("The file is no torch.export archive.", hint=_HOW)


def _check_members(archive: Archive) -> str:
    """Admit members by name and give the archive's root folder with its slash."""
    roots = {name.partition("/")[0] + "/" for name in archive.members}
    if len(roots) != 1:
        raise UnsafeFile("The archive's members do not stand in one folder.", hint=_HOW)
    root = roots.pop()
    names = {name.removeprefix(root) for name in archive.members}
    for name in sorted(names):
        if name in _FIXED or _PAYLOAD.fullmatch(name):
            continue
        if name in {"data.pkl", "constants.pkl"}:
            raise UnsafeFile("The archive is a pickle or TorchScript, which runs code when it is loaded.", hint=_HOW)
        kind = next(
            (kind for start, kind in _KINDS.items() if name.startswith(start)), "nothing that an exported program needs"
        )
        raise UnsafeFile(f"The archive's member {name!r} is {kind}.", hint=_HOW)
    for name in sorted({_GRAPH, _WEIGHTS, _CONSTANTS, _SAMPLE, *_MARKS} - names):
        raise CorruptFile(f"The archive holds no {name}.", hint=_HOW)
    for name, content in _MARKS.items():
        found = archive.read(root + name, 64)
        if found != content:
            raise UnsafeFile(f"The archive's {name} is {found!r}; {content.decode()} is read.", hint=_HOW)
    return root


def _parse(model: type[_Model], text: bytes, where: str) -> _Model:
    document = strict_json.loads(text, where)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        if first["loc"][-1] == "as_graph":
            raise UnsafeFile(f"{where} at {at}: an operator runs a graph of its own.", hint=_FLAT) from None
        raise UnsafeFile(f"{where} at {at}: {first['msg']}.", hint=_HOW) from None


def _check_payloads(archive: Archive, root: str, config: str, folder: str) -> set[str]:
    """Compare each tensor with the bytes it claims, and give the members that were read."""
    members: dict[str, list[tuple[str, Payload]]] = {}
    for weight, payload in _parse(PayloadConfig, archive.read(root + config, _MAX_JSON_BYTES), config).config.items():
        name = f"{root}{folder}{payload.path_name}"
        if name not in archive.members:
            raise CorruptFile(
                f"{config} refers to {payload.path_name!r} for {weight!r}; the archive has no such member."
            )
        _check_extent(weight, payload.tensor_meta, archive.members[name].file_size)
        members.setdefault(name, []).append((weight, payload))
    for name, uses in members.items():
        _check_values(archive, name, uses)
    return set(members)


def _check_extent(weight: str, meta: TensorMeta, size: int) -> None:
    item = ITEM_BYTES[meta.dtype]
    numbers = [each.as_int for each in (*meta.sizes, *meta.strides, meta.storage_offset)]
    if any(each is None for each in numbers):
        raise UnsafeFile(f"The weight {weight!r} has a size that is no number.", hint=_HOW)
    if size % item:
        raise CorruptFile(f"The weight {weight!r} has {size} bytes, which is no whole number of elements.")
    rank = len(meta.sizes)
    check_extent(numbers[:rank], numbers[rank : 2 * rank], numbers[-1], size // item, f"The weight {weight!r}")


def _check_values(archive: Archive, name: str, uses: list[tuple[str, Payload]]) -> None:
    """Read a payload whole, for its checksum, and look for values that no trained weight has.

    A buffer may hold infinity: attention masks do.
    """
    dtypes = {_FLOATS[payload.tensor_meta.dtype] for _, payload in uses if payload.tensor_meta.dtype in _FLOATS}
    trained = any(payload.is_param for _, payload in uses)
    for block in archive.blocks(name):
        for dtype in dtypes:
            found = find_nonfinite(block, dtype)
            if found == "nan" or (found == "infinite" and trained):
                what = "NaN" if found == "nan" else "infinite"
                raise NonFiniteWeights(
                    f"The weight {uses[0][0]!r} holds {what} values.",
                    hint="Training diverged: upload an earlier state.",
                )


def _check_program(program: Program) -> None:
    module = program.graph_module
    for name in program.range_constraints:
        if not SYMBOL.fullmatch(name):
            check_shape(name, "range_constraints")
    for guard in program.guards_code:
        check_guard(guard, "guards_code")
    for entry in module.module_call_graph:
        if entry.signature:
            where = f"The signature of {entry.fqn or 'the network'}"
            check_tree(entry.signature.in_spec, where, names_arguments=True)
            check_tree(entry.signature.out_spec, where)
    if custom := module.metadata.get("custom"):
        strict_json.loads(custom, "metadata.custom")
    _check_graph(module.graph)


def _check_graph(graph: Graph) -> None:
    for name, meta in graph.tensor_values.items():
        _check_meta(meta, f"the shape of {name!r}")
    values: dict[str, SymInt | SymBool | SymFloat] = {
        **graph.sym_int_values,
        **graph.sym_bool_values,
        **graph.sym_float_values,
    }
    for name, value in values.items():
        if value.as_expr:
            check_shape(value.as_expr.expr_str, f"the value {name!r}")
    known = {name for argument in graph.inputs for name in _names(argument)}
    if len(known) != sum(1 for argument in graph.inputs for _ in _names(argument)):
        raise UnsafeFile("The graph has two inputs of one name.", hint=_HOW)
    for node in graph.nodes:
        _check_node(node, known)
    for argument in graph.outputs:
        for name in _names(argument):
            if name not in known:
                raise UnsafeFile(f"The graph gives out {name!r}, which nothing computes.", hint=_HOW)


def _check_node(node: Node, known: set[str]) -> None:
    """Admit one call, whose inputs must be known before it: then the graph has no cycles."""
    what = node.name or node.target[:80]
    if node.target not in _operators():
        raise UnsafeFile(f"The node {what!r} calls {node.target[:120]!r}, which is not admitted.", hint=_HOW)
    for entry in node.inputs:
        for name in _names(entry.arg):
            if name not in known:
                raise UnsafeFile(f"The node {what!r} takes {name!r}, which no node before it computes.", hint=_HOW)
    made = [name for argument in node.outputs for name in _names(argument)]
    for name in made:
        if name in known:
            raise UnsafeFile(f"The graph computes {name!r} more than once.", hint=_HOW)
        known.add(name)
    _check_metadata(node.metadata, what)


def _check_metadata(metadata: Metadata, what: str) -> None:
    for text in (metadata.stack_trace, metadata.nn_module_stack, metadata.torch_fn):
        # torch writes stack traces into code, as comments: a line break of another kind would end one.
        if text and not text.replace("\n", "").replace("\t", "").isprintable():
            raise UnsafeFile(f"The metadata of the node {what!r} holds control characters.", hint=_HOW)
    for document in (metadata.from_node, metadata.custom):
        if document:
            strict_json.loads(document, f"The metadata of the node {what!r}")


def _check_meta(meta: TensorMeta, where: str) -> None:
    for size in (*meta.sizes, *meta.strides, meta.storage_offset):
        if size.as_expr:
            check_shape(size.as_expr.expr_str, where)
    fixed = math.prod(size.as_int for size in meta.sizes if size.as_int is not None)
    if fixed * ITEM_BYTES[meta.dtype] > MAX_TENSOR_BYTES:
        raise UnsafeFile(f"{where} would take over {MAX_TENSOR_BYTES >> 30} GiB.", hint="Export with smaller inputs.")


@cache
def _operators() -> frozenset[str]:
    return frozenset(OPERATORS_FILE.read_text(encoding="ascii").split())


def _names(argument: Argument) -> list[str]:
    """List the values of the graph that an argument refers to."""
    found = [argument.as_tensor, *(argument.as_tensors or ())]
    found += [each for row in argument.as_nested_tensors or () for each in row]
    optional = [argument.as_optional_tensor, *(argument.as_optional_tensors or ())]
    found += [each.as_tensor for each in optional if each]
    symbols = [
        argument.as_sym_int,
        argument.as_sym_float,
        argument.as_sym_bool,
        *(argument.as_sym_ints or ()),
        *(argument.as_sym_floats or ()),
        *(argument.as_sym_bools or ()),
    ]
    return [each.name for each in found if each] + [each.as_name for each in symbols if each and each.as_name]
