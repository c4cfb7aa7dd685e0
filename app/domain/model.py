"""What is known of an uploaded network once it has been inspected."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Dimension = int | str
"""A fixed size, or the name of a dynamic one such as ``batch``."""

ModelFormat = Literal["pt2", "onnx", "huggingface"]


class ObjectState(StrEnum):
    """Where an uploaded model or data set stands."""

    VALIDATING = "validating"
    READY = "ready"
    REJECTED = "rejected"


class TensorSpec(BaseModel):
    """Name, dtype (``float32``, ``int64``, …) and shape of an input, an output or a field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dtype: str
    shape: tuple[Dimension, ...]


class Signature(BaseModel):
    """What goes in and what comes out. The first dimension of each input is the batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Layer(BaseModel):
    """One layer with weights; layers whose channels must be cut together share a ``group``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    op: str
    weight_shape: tuple[int, ...]
    parameters: int
    macs: int
    prunable: bool
    quantizable: bool
    """Whether static int8 has a kernel for it: convolutions over one or two dimensions, and linear layers, also those
    that are a product with a weight of the network's own. Other schemes take embeddings too, ``cast`` all convolutions.
    """
    group: str | None = None
    reason: str | None = None
    """Why the layer is not prunable; null where it is."""


class ModelFacts(BaseModel):
    """The findings of an inspection. ``macs`` are for one row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: ModelFormat
    trainable: bool
    signature: Signature
    parameters: int
    macs: int
    layers: tuple[Layer, ...]
    quantized: bool = False
    """Whether its weights are integers, or floats of fewer bits, already."""
    features: dict[str, tuple[int, ...]] | None = None
    """What layers that hints can be of give for an example row, channels first; null where nobody looked."""
    blocks: tuple[tuple[str, ...], ...] | None = None
    """The layers of each block that can be left out, in the order in which they run; null where nobody looked."""
    way: Annotated[int, Field(ge=0)] | None = None
    """Which of the ways to read its file held, so that jobs need not try them; null where the format has but one."""
