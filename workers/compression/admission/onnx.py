"""Admit ONNX files before the checker or a runtime sees them: read by the wire format, without the library.

The field numbers are those of onnx.proto3 (IR versions 3 to 14).
"""

import dataclasses
import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from app.domain.errors import CorruptFile, NonFiniteWeights, UnsafeFile
from workers.compression.admission.finite import find_nonfinite
from workers.compression.admission.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, fields, read_varint

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MAX_NODES = 100_000
MAX_DEPTH = 8
_MAX_NAME = 1024
_HOW = "Export the network again with torch.onnx.export and external_data=False."
_PLAIN = "Upload the float network as it was exported, before any runtime fused or quantized its operators."
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
"""Bits an element, by ONNX's number of the dtype; strings (8), complex and the eight-bit floats are not admitted."""
_FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
_PACKED = {4: 4, 10: 8}
"""Typed data that is packed with a fixed width: float_data and double_data."""


def admit_onnx(path: Path) -> None:
    """Raise UnsafeFile or CorruptFile unless the file is one acyclic graph of standard operators, whole in itself."""
    with path.open("rb") as stream:
        if path.stat().st_size < 8:
            raise CorruptFile("The file is too short for an ONNX model.", hint=_HOW)
        start = stream.read(2)
        if start[:1] in {b"\x80", b"("} or start == b"PK":
            raise UnsafeFile("The file is a pickle or an archive, and no ONNX model.", hint=_HOW)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            _Walk(data).check_model()


@dataclasses.dataclass
class _Node:
    name: str = ""
    operator: str = ""
    domain: str = ""
    inputs: list[str] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    attributes: list[Field] = dataclasses.field(default_factory=list)


class _Walk:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.nodes = 0

    def check_model(self) -> None:
        graphs = 0
        for field in fields(self.data, 0, len(self.data)):
            match field.number:
                case 1:
                    if not 3 <= field.value <= 14 or field.wire != VARINT:
                        raise CorruptFile(f"The file is of IR version {field.value}.", hint=_HOW)
                case 7:
                    graphs += 1
                    self.check_graph(field, frozenset(), 0)
                case 8:
                    self.check_import(field)
                case 20:
                    raise UnsafeFile("The model carries training information.", hint=_HOW)
                case 25:
                    raise UnsafeFile("The model carries functions of its own.", hint=_HOW)
                case 2 | 3 | 4 | 5 | 6 | 14:
                    pass
                case _:
                    raise CorruptFile(f"The file holds the unknown field {field.number}.", hint=_HOW)
        if graphs != 1:
            raise CorruptFile(f"The file holds {graphs} graphs.", hint=_HOW)

    def inner(self, field: Field) -> Iterator[Field]:
        if field.wire != BYTES:
            raise CorruptFile(f"The file holds a number where a message belongs, at byte {field.start}.", hint=_HOW)
        return fields(self.data, field.start, field.start + field.value)

    def text(self, field: Field) -> str:
        if field.wire != BYTES or field.value > _MAX_NAME:
            raise UnsafeFile(f"The file holds a name of {field.value} bytes.", hint=_HOW)
        try:
            text = bytes(self.data[field.start : field.start + field.value]).decode()
        except UnicodeDecodeError as error:
            raise CorruptFile(f"The file holds a name that is no UTF-8, at byte {field.start}.", hint=_HOW) from error
        if text and not text.isprintable():
            raise UnsafeFile(f"The file holds the name {text[:80]!r}.", hint=_HOW)
        return text

    def check_import(self, field: Field) -> None:
        for each in self.inner(field):
            if each.number == 1 and self.text(each) not in DOMAINS:
                raise UnsafeFile(f"The model uses the operators of {self.text(each)!r}.", hint=_PLAIN)

    def check_graph(self, field: Field, outer: frozenset[str], depth: int) -> None:  # noqa: C901 - one case a field
        """Admit a graph whose nodes use what stands before them, so that it has no cycles."""
        if depth > MAX_DEPTH:
            raise UnsafeFile(f"The model nests graphs deeper than {MAX_DEPTH} levels.", hint=_HOW)
        nodes: list[Field] = []
        known: set[str] = set()
        inputs: set[str] = set()
        for each in self.inner(field):
            match each.number:
                case 1:
                    nodes.append(each)
                case 5:
                    self.add(known, self.check_tensor(each), "initializer")
                case 11:
                    self.add(inputs, self.check_value(each), "input")
                case 15:
                    raise UnsafeFile("The model holds sparse weights.", hint=_HOW)
                case 12 | 13:
                    self.check_value(each)
                case 2:
                    self.text(each)
                case 10 | 14 | 16:
                    pass
                case _:
                    raise CorruptFile(f"The graph holds the unknown field {each.number}.", hint=_HOW)
        known |= inputs
        names: set[str] = set()
        for node in nodes:
            self.check_node(node, known, outer, names, depth)

    def add(self, names: set[str], name: str, what: str) -> None:
        if not name or name in names:
            raise UnsafeFile(f"The {what} {name!r} has no name, or one that stands twice.", hint=_HOW)
        names.add(name)

    def check_value(self, field: Field) -> str:
        """Admit the description of a tensor and give its name."""
        name = ""
        for each in self.inner(field):
            if each.number == 1:
                name = self.text(each)
            elif each.number == 2:
                self.check_type(each)
        return name

    def check_type(self, field: Field) -> None:
        for kind in self.inner(field):
            if kind.number == 6:  # the denotation
                self.text(kind)
                continue
            if kind.number != 1:
                raise UnsafeFile("The model has an input or output that is no tensor.", hint=_HOW)
            shapes = [each for each in self.inner(kind) if each.number == 2]
            for dimension in (each for shape in shapes for each in self.inner(shape)):
                for each in self.inner(dimension):
                    if each.number in {2, 3}:
                        self.text(each)
                    elif not 0 <= _signed(each.value) < 1 << 40:
                        raise UnsafeFile(f"The model has a dimension of {_signed(each.value)}.", hint=_HOW)

    def check_node(self, field: Field, known: set[str], outer: frozenset[str], names: set[str], depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise UnsafeFile(f"The model has more than {MAX_NODES} nodes.", hint=_HOW)
        node = self.read_node(field)
        what = f"The node {node.name or node.operator!r}"
        if not node.operator.isidentifier():
            raise UnsafeFile(f"{what} calls the operator {node.operator[:80]!r}.", hint=_HOW)
        if node.domain not in DOMAINS:
            raise UnsafeFile(f"{what} is of the domain {node.domain!r}.", hint=_PLAIN)
        if node.name:
            self.add(names, node.name, "node")
        for value in filter(None, node.inputs):
            if value not in known and value not in outer:
                raise UnsafeFile(f"{what} takes {value!r}, which nothing before it computes.", hint=_HOW)
        for attribute in node.attributes:
            self.check_attribute(attribute, outer | known, depth)
        for value in filter(None, node.outputs):
            self.add(known, value, "value")

    def read_node(self, field: Field) -> _Node:
        node = _Node()
        for each in self.inner(field):
            match each.number:
                case 1:
                    node.inputs.append(self.text(each))
                case 2:
                    node.outputs.append(self.text(each))
                case 3:
                    node.name = self.text(each)
                case 4:
                    node.operator = self.text(each)
                case 5:
                    node.attributes.append(each)
                case 7:
                    node.domain = self.text(each)
        return node

    def check_attribute(self, field: Field, outer: frozenset[str], depth: int) -> None:
        for each in self.inner(field):
            match each.number:
                case 1:
                    self.text(each)
                case 5 | 10:
                    self.check_tensor(each)
                case 6 | 11:
                    self.check_graph(each, outer, depth + 1)
                case 22 | 23:
                    raise UnsafeFile("The model holds a sparse tensor.", hint=_HOW)

    def check_tensor(self, field: Field) -> str:  # noqa: C901 - one case a field of the message
        """Compare a tensor's shape with its bytes, and give its name."""
        kind, name, counted = 0, "", 0
        shape: list[int] = []
        raw: Field | None = None
        for each in self.inner(field):
            match each.number:
                case 1:
                    shape += self.integers(each)
                case 2:
                    kind = each.value
                case 8:
                    name = self.text(each)
                case 9:
                    raw = each
                case 4 | 10:
                    counted += each.value // _PACKED[each.number] if each.wire == BYTES else 1
                case 5 | 7 | 11:
                    counted += sum(1 for _ in self.integers(each))
                case 13:
                    raise UnsafeFile(f"The tensor {name!r} keeps its data in another file.", hint=_HOW)
                case 14 if each.value:
                    raise UnsafeFile(f"The tensor {name!r} keeps its data in another file.", hint=_HOW)
                case 3 | 6:
                    raise UnsafeFile(f"The tensor {name!r} holds texts or segments.", hint=_HOW)
        self.check_extent(name, shape, kind, raw, counted)
        return name

    def check_extent(self, name: str, shape: list[int], kind: int, raw: Field | None, counted: int) -> None:
        if kind not in _BITS:
            raise UnsafeFile(f"The tensor {name!r} is of the unknown dtype {kind}.", hint=_HOW)
        if len(shape) > 32 or not all(0 <= each < 1 << 40 for each in shape):
            raise UnsafeFile(f"The tensor {name!r} has the shape {str(shape)[:80]}.", hint=_HOW)
        elements = math.prod(shape)
        if raw is None:
            fits = counted == (elements if _BITS[kind] >= 8 else (elements + 1) // 2)
        else:
            fits = not counted and raw.wire == BYTES and raw.value == (elements * _BITS[kind] + 7) // 8
        if not fits:
            raise CorruptFile(f"The tensor {name!r} has other data than its shape {shape} asks for.", hint=_HOW)
        if raw is not None and kind in _FLOATS and self.holds_nan(raw, _FLOATS[kind]):
            raise NonFiniteWeights(
                f"The tensor {name!r} holds NaN.", hint="Training diverged: upload an earlier state."
            )

    def holds_nan(self, raw: Field, dtype: str) -> bool:
        return find_nonfinite(bytes(self.data[raw.start : raw.start + raw.value]), dtype) == "nan"

    def integers(self, field: Field) -> Iterator[int]:
        """Read a repeated integer, packed or not, as signed."""
        if field.wire == VARINT:
            yield _signed(field.value)
            return
        if field.wire in {FIXED32, FIXED64}:
            raise CorruptFile(f"The file holds a number of another kind at byte {field.start}.", hint=_HOW)
        at, end = field.start, field.start + field.value
        while at < end:
            value, at = read_varint(self.data, at, end)
            yield _signed(value)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
