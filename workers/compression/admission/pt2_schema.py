"""The JSON of a ``torch.export`` archive, as far as it is admitted: schema 8 of torch, read strictly.

Left out, and so refused: graphs within graphs, custom objects, tokens, operators as arguments, and pickled payloads.
A union is an object with exactly one key.
"""

import keyword
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"(?!.*__\.)(?!.*\.__)[A-Za-z0-9_][A-Za-z0-9_\-]*(?:\.[A-Za-z0-9_][A-Za-z0-9_\-]*)*")
_MAX_NAME = 1024


def _check_name(name: str) -> str:
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"{name[:80]!r} is no name of a value: torch writes such names into code")
    return name


def _check_path(path: str) -> str:
    if len(path) > _MAX_NAME or not _PATH.fullmatch(path):
        raise ValueError(f"{path[:80]!r} is no name of a weight: torch writes such names into code")
    return path


Name = Annotated[str, AfterValidator(_check_name)]
"""Of a value in the graph."""
Path = Annotated[str, AfterValidator(_check_path)]
"""Of a weight, such as ``layers.0.weight``."""
Size = Annotated[int, Field(ge=0, lt=1 << 40)]
Text = Annotated[str, Field(max_length=4096)]
DType = Literal[1, 2, 3, 4, 5, 6, 7, 8, 12, 13]
ITEM_BYTES: dict[int, int] = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
"""Bytes an element, by torch's number of the dtype: uint8, int8 to int64, float16 to float64, bool, bfloat16."""


class Part(BaseModel):
    # Built when a network is first read: for a data set, half of what loading the admission takes would be in vain.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class OneOf(Part):
    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if len(self.model_fields_set) != 1 or getattr(self, next(iter(self.model_fields_set))) is None:
            raise ValueError("exactly one key is needed")
        return self


class Device(Part):
    type: Literal["cpu", "cuda", "meta"]
    index: Annotated[int, Field(ge=0, le=255)] | None = None


class Hint(OneOf):
    as_int: int | None = None
    as_bool: bool | None = None
    as_float: float | None = None


class Expression(Part):
    expr_str: str
    hint: Hint | None = None


class SymInt(OneOf):
    as_expr: Expression | None = None
    as_int: Size | None = None


class SymFloat(OneOf):
    as_expr: Expression | None = None
    as_float: float | None = None


class SymBool(OneOf):
    as_expr: Expression | None = None
    as_bool: bool | None = None


class TensorMeta(Part):
    dtype: DType
    sizes: Annotated[list[SymInt], Field(max_length=16)]
    requires_grad: bool
    device: Device
    strides: Annotated[list[SymInt], Field(max_length=16)]
    storage_offset: SymInt
    layout: Literal[7]  # strided

    @model_validator(mode="after")
    def _check_rank(self) -> Self:
        if len(self.sizes) != len(self.strides):
            raise ValueError("sizes and strides differ in number")
        return self


class Tensor(Part):
    name: Name


class OptionalTensor(OneOf):
    as_tensor: Tensor | None = None
    as_none: bool | None = None


class SymIntArgument(OneOf):
    as_name: Name | None = None
    as_int: int | None = None


class SymFloatArgument(OneOf):
    as_name: Name | None = None
    as_float: float | None = None


class SymBoolArgument(OneOf):
    as_name: Name | None = None
    as_bool: bool | None = None


Float = float | Literal["Infinity", "-Infinity", "NaN"]
"""torch writes what JSON has no number for as a word, such as the value that a mask is filled with."""


class Argument(OneOf):
    as_none: bool | None = None
    as_tensor: Tensor | None = None
    as_tensors: list[Tensor] | None = None
    as_int: int | None = None
    as_ints: list[int] | None = None
    as_float: Float | None = None
    as_floats: list[Float] | None = None
    as_string: Text | None = None
    as_strings: list[Text] | None = None
    as_sym_int: SymIntArgument | None = None
    as_sym_ints: list[SymIntArgument] | None = None
    as_scalar_type: DType | None = None
    as_memory_format: Annotated[int, Field(ge=1, le=4)] | None = None
    as_layout: Literal[7] | None = None
    as_device: Device | None = None
    as_bool: bool | None = None
    as_bools: list[bool] | None = None
    as_sym_bool: SymBoolArgument | None = None
    as_sym_bools: list[SymBoolArgument] | None = None
    as_optional_tensors: list[OptionalTensor] | None = None
    as_sym_float: SymFloatArgument | None = None
    as_sym_floats: list[SymFloatArgument] | None = None
    as_optional_tensor: OptionalTensor | None = None
    as_nested_tensors: list[list[Tensor]] | None = None
    as_int_lists: list[list[int]] | None = None
    as_float_lists: list[list[Float]] | None = None


class NamedArgument(Part):
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | Literal[""]
    arg: Argument
    kind: Literal[1, 2] | None = None


class Metadata(Part):
    """What a node tells of its origin: texts that torch shows or compares."""

    stack_trace: Annotated[str, Field(max_length=1 << 16)] | None = None
    nn_module_stack: Annotated[str, Field(max_length=1 << 16)] | None = None
    torch_fn: Text | None = None
    source_fn_stack: Annotated[str, Field(max_length=4096, pattern=r"^[\w.;, \-<>\[\]()']*$")] | None = None
    from_node: Annotated[str, Field(max_length=1 << 20)] | None = None
    custom: Annotated[str, Field(max_length=1 << 16)] | None = None


class Node(Part):
    target: Annotated[str, Field(max_length=256)]
    inputs: Annotated[list[NamedArgument], Field(max_length=256)]
    outputs: Annotated[list[Argument], Field(max_length=4096)]
    metadata: Metadata
    is_hop_single_tensor_return: None = None
    name: Name | None = None


class Graph(Part):
    inputs: list[Argument]
    outputs: list[Argument]
    nodes: Annotated[list[Node], Field(max_length=100_000)]
    tensor_values: dict[Name, TensorMeta]
    sym_int_values: dict[Name, SymInt]
    sym_bool_values: dict[Name, SymBool]
    is_single_tensor_return: Literal[False] = False
    custom_obj_values: Annotated[dict[str, None], Field(max_length=0)] = {}
    sym_float_values: dict[Name, SymFloat] = {}


class UserInput(Part):
    arg: Argument


class ConstantValue(OneOf):
    as_none: bool | None = None
    as_int: int | None = None
    as_float: Float | None = None
    as_string: Text | None = None
    as_bool: bool | None = None


class ConstantInput(Part):
    name: Name
    value: ConstantValue


class ParameterInput(Part):
    arg: Tensor
    parameter_name: Path


class BufferInput(Part):
    arg: Tensor
    buffer_name: Path
    persistent: bool


class ConstantTensorInput(Part):
    arg: Tensor
    tensor_constant_name: Path


class InputSpec(OneOf):
    user_input: UserInput | None = None
    parameter: ParameterInput | None = None
    buffer: BufferInput | None = None
    tensor_constant: ConstantTensorInput | None = None
    constant_input: ConstantInput | None = None


class BufferMutation(Part):
    arg: Tensor
    buffer_name: Path


class OutputSpec(OneOf):
    user_output: UserInput | None = None
    buffer_mutation: BufferMutation | None = None


class Signature(Part):
    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class CallSignature(Part):
    inputs: list[Argument]
    outputs: list[Argument]
    in_spec: Annotated[str, Field(max_length=1 << 16)]
    out_spec: Annotated[str, Field(max_length=1 << 16)]
    forward_arg_names: list[Name] | None = None


class CallEntry(Part):
    fqn: Path | Literal[""]
    signature: CallSignature | None = None


class GraphModule(Part):
    graph: Graph
    signature: Signature
    module_call_graph: Annotated[list[CallEntry], Field(max_length=100_000)]
    metadata: dict[Literal["custom"], Annotated[str, Field(max_length=1 << 16)]] = {}
    treespec_namedtuple_fields: Annotated[dict[str, None], Field(max_length=0)] = {}


class Range(Part):
    min_val: int | None
    max_val: int | None


class Version(Part):
    major: Literal[8]
    minor: Annotated[int, Field(ge=0, le=999)]


class Program(Part):
    graph_module: GraphModule
    opset_version: dict[Literal["aten"], Annotated[int, Field(ge=0, le=999)]]
    range_constraints: Annotated[dict[str, Range], Field(max_length=10_000)]
    schema_version: Version
    verifiers: Annotated[list[Literal["ATEN", "TRAINING", ""]], Field(max_length=4)] = []
    torch_version: Annotated[str, Field(pattern=r"^[\w.+<=]{1,64}$")] = "<=2.4"
    guards_code: Annotated[list[str], Field(max_length=10_000)] = []


class Payload(Part):
    path_name: Annotated[str, Field(pattern=r"^(weight|tensor)_[0-9]{1,9}$")]
    is_param: bool
    use_pickle: Literal[False]
    tensor_meta: TensorMeta


class PayloadConfig(Part):
    config: dict[Path, Payload]
