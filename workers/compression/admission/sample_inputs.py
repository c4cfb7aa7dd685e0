"""The example inputs within a ``.pt2``: a pickle in an archive within the archive, admitted opcode by opcode.

torch loads it by ``torch.load(weights_only=True)`` and, where that fails, by plain unpickling. So the stream must
hold nothing but data opcodes and a handful of names, and it is run here against stand-ins that only record.
"""

import io
import math
import pickle
import pickletools
from dataclasses import dataclass
from typing import Any

from app.domain.errors import CorruptFile, UnsafeFile
from workers.compression.admission.archive import Archive, Limits

MAX_BYTES = 1 << 30
_MAX_PICKLE_BYTES = 1 << 20
_MAX_NODES = 10_000
_MAX_DEPTH = 32
_ROOT = "archive/"
_MEMBERS = frozenset(
    _ROOT + name for name in ("data.pkl", "byteorder", "version", ".format_version", ".storage_alignment")
) | {_ROOT + ".data/serialization_id"}
_OPCODES = frozenset(
    [
        "PROTO",
        "STOP",
        "MARK",
        "GLOBAL",
        "REDUCE",
        "BINPUT",
        "LONG_BINPUT",
        "BINGET",
        "LONG_BINGET",
        "BINPERSID",
        "BINUNICODE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_DICT",
        "SETITEM",
        "SETITEMS",
    ]
)
_STORAGE_ITEM_BYTES = {
    "FloatStorage": 4,
    "DoubleStorage": 8,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_DTYPES = frozenset(["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"])


@dataclass(frozen=True)
class _Named:
    """Stands for a name of torch; never called."""

    name: str


@dataclass(frozen=True)
class _Storage:
    elements: int


def check_sample_inputs(content: bytes, where: str) -> None:
    """Admit tensors in tuples, lists and dictionaries whose storages have the sizes they claim."""
    if not content:
        return
    try:
        stream, sizes = _read_archive(content)
    except (CorruptFile, UnsafeFile) as error:
        raise type(error)(f"{where}: {error.detail}", hint=error.hint) from error
    _check_opcodes(stream, where)
    try:
        value = _Recorder(stream, sizes, where).load()
    except (pickle.UnpicklingError, ValueError, TypeError, EOFError, IndexError, KeyError, AttributeError) as error:
        raise CorruptFile(f"{where} cannot be read: {error}") from error
    if not isinstance(value, tuple):
        raise UnsafeFile(f"{where} holds no pair of arguments and keyword arguments.")
    _check_tree(value, where)


def _read_archive(content: bytes) -> tuple[bytes, dict[str, int]]:
    """Give the pickle, and the size in bytes of each storage by its key."""
    limits = Limits(members=10_000, member_bytes=MAX_BYTES, total_bytes=MAX_BYTES, ratio=1)
    with Archive(io.BytesIO(content), limits) as archive:
        sizes = {}
        for name, member in archive.members.items():
            key = name.removeprefix(_ROOT + "data/")
            if name not in _MEMBERS and not (key != name and key.isascii() and key.isdigit()):
                raise UnsafeFile(f"It holds the member {name!r}.")
            sizes[key] = member.file_size
            for _ in archive.blocks(name):
                pass
        if _ROOT + "data.pkl" not in archive.members:
            raise CorruptFile("It holds no data.pkl.")
        if _ROOT + "byteorder" in archive.members and archive.read(_ROOT + "byteorder", 16) != b"little":
            raise UnsafeFile("It is not little-endian.")
        return archive.read(_ROOT + "data.pkl", _MAX_PICKLE_BYTES), sizes


def _check_opcodes(stream: bytes, where: str) -> None:
    try:
        last = 0
        for opcode, argument, position in pickletools.genops(stream):
            last = position or 0
            if opcode.name not in _OPCODES:
                raise UnsafeFile(f"{where} holds the pickle instruction {opcode.name}.")
            if opcode.name == "LONG_BINPUT" and int(argument or 0) > _MAX_PICKLE_BYTES:
                raise UnsafeFile(f"{where} asks for room for {argument} remembered objects.")
    except ValueError as error:
        raise CorruptFile(f"{where} is no whole pickle: {error}") from error
    if last + 1 != len(stream):
        raise UnsafeFile(f"{where} holds bytes behind its end.")


class _Recorder(pickle.Unpickler):
    """Runs the stream with every admitted name bound to a stand-in."""

    def __init__(self, stream: bytes, sizes: dict[str, int], where: str) -> None:
        super().__init__(io.BytesIO(stream))
        self._sizes, self._where = sizes, where
        self._names: dict[str, Any] = {
            "torch._utils _rebuild_tensor_v2": self._rebuild,
            "torch._tensor _rebuild_from_type_v2": self._rebuild_typed,
            "torch._utils _rebuild_parameter": self._rebuild_parameter,
            "collections OrderedDict": dict,
            "torch Tensor": _Named("Tensor"),
            "torch.nn.parameter Parameter": _Named("Parameter"),
            "torch device": self._device,
        }
        self._names |= {f"torch {name}": _Named(name) for name in (*_STORAGE_ITEM_BYTES, *_DTYPES)}

    def find_class(self, module: str, name: str, /) -> Any:
        found = self._names.get(f"{module} {name}")
        if found is None:
            raise UnsafeFile(
                f"{self._where} names {f'{module}.{name}'[:120]!r}, which is not admitted.",
                hint="Export with plain tensors as example inputs.",
            )
        return found

    def persistent_load(self, identity: Any, /) -> _Storage:
        match identity:
            case ("storage", _Named(name=kind), str(key), "cpu", int(elements)) if kind in _STORAGE_ITEM_BYTES:
                if elements * _STORAGE_ITEM_BYTES[kind] != self._sizes.get(key):
                    raise UnsafeFile(f"{self._where} claims {elements} elements for its storage {key[:20]!r}.")
                return _Storage(elements)
            case _:
                raise UnsafeFile(f"{self._where} refers to a storage in a way that is not admitted.")

    def _rebuild(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Named:
        if not isinstance(storage, _Storage) or len(rest) > 3:
            raise UnsafeFile(f"{self._where} builds a tensor in a way that is not admitted.")
        check_extent(size, stride, offset, storage.elements, self._where)
        return _Named("Tensor")

    def _rebuild_typed(self, function: Any, kind: Any, arguments: Any, state: Any) -> _Named:
        if function != self._rebuild or not isinstance(kind, _Named) or not _is_dynamic_mark(state):
            raise UnsafeFile(f"{self._where} builds a tensor in a way that is not admitted.")
        return self._rebuild(*arguments)

    def _rebuild_parameter(self, tensor: Any, _gradient: Any, _hooks: Any) -> _Named:
        if tensor != _Named("Tensor"):
            raise UnsafeFile(f"{self._where} builds a parameter of something else than a tensor.")
        return _Named("Parameter")

    def _device(self, name: Any) -> _Named:
        if name != "cpu":
            raise UnsafeFile(f"{self._where} names the device {str(name)[:40]!r}.")
        return _Named("device")


def _is_dynamic_mark(state: Any) -> bool:
    """Tell whether the attributes to set on a tensor are those that torch.export leaves on dynamic inputs."""
    match state:
        case None:
            return True
        case {"_specialize_on": dict(dimensions), **rest} if not rest:
            return all(type(key) is int and value == [] for key, value in dimensions.items())
        case dict():
            return not state
        case _:
            return False


def check_extent(sizes: Any, strides: Any, offset: Any, elements: int, where: str) -> None:
    """See that a view of these sizes and strides stays within ``elements`` elements."""
    numbers = [*sizes, *strides, offset]
    if len(sizes) != len(strides) or not all(type(each) is int and 0 <= each < 1 << 40 for each in numbers):
        raise UnsafeFile(f"{where} has sizes or strides that are no sizes.")
    if math.prod(sizes):
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if last >= elements:
            raise UnsafeFile(f"{where} claims elements up to number {last}; its data holds {elements}.")


def _check_tree(value: Any, where: str) -> None:
    """Bound what a walk over the value costs: shared parts count each time they are met."""
    budget = _MAX_NODES
    waiting = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        budget -= 1
        if budget < 0 or depth > _MAX_DEPTH:
            raise UnsafeFile(f"{where} nests too deeply or has too many parts.")
        if isinstance(each, dict):
            waiting += [(part, depth + 1) for pair in each.items() for part in pair]
        elif isinstance(each, list | tuple):
            waiting += [(part, depth + 1) for part in each]
