"""What a step that quantizes takes, by any of its schemes."""

import re
from collections.abc import Callable, Collection
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from app.domain.exact import Exact
from app.domain.steps.distill import DistillSpec
from app.domain.steps.step import StepSpec
from app.domain.steps.training import FinetuneSpec, TrainingSpec

Observer = Literal["histogram", "minmax", "percentile", "mse"]
Choice = Literal["auto", "on", "off"]


class LayerOverride(Exact):
    """How one layer departs from the rest of its step; what is not given stays as it is there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: int | None = Field(
        None, ge=2, le=8, description="Weights within ±(2^(bits−1) − 1); they are stored as bytes all the same."
    )
    observer: Observer | None = Field(None, description="How the ranges of what the layer reads and gives are found.")
    keep_float: bool = Field(default=False, description="The layer stays in float.")

    @model_validator(mode="after")
    def _say_something(self) -> Self:
        if self.keep_float == (self.bits is not None or self.observer is not None):
            raise ValueError("give bits, an observer or both, or else keep_float")
        return self


_WEIGHTS = {
    "static": ("int8",),
    "dynamic": ("int8",),
    "weight_only": ("int8", "int4"),
    "qat": ("int8", "int4"),
    "cast": ("fp16", "bf16"),
}
PRECISIONS = {"int8": "int8", "int4": "int4", "fp16": "float16", "bf16": "bfloat16"}
"""What a target calls each of the formats that weights are stored in."""
_PACKED_BITS = (4, 8)
OPERATORS = frozenset(
    [
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "add",
        "avg_pool1d",
        "avg_pool2d",
        "cat",
        "clamp",
        "clamp_min",
        "clone",
        "constant_pad_nd",
        "contiguous",
        "conv1d",
        "conv2d",
        "dropout",
        "embedding",
        "flatten",
        "hardtanh",
        "leaky_relu",
        "linear",
        "max_pool1d",
        "max_pool2d",
        "mean",
        "mul",
        "pad",
        "permute",
        "relu",
        "relu6",
        "reshape",
        "sigmoid",
        "slice",
        "squeeze",
        "transpose",
        "unsqueeze",
        "upsample_nearest2d",
        "view",
    ]
)
"""What may stand in a graph that is quantized, and be excluded: by these names, with a number behind or not."""
WILDCARDS = re.compile(r"\[[^\]]*\]|[*?]")


def _packs(scheme: str, weights: str | None) -> bool:
    return scheme == "weight_only" or (scheme == "qat" and weights == "int4")


def _calibrates(scheme: str, weights: str | None) -> bool:
    return scheme in {"static", "qat"} and not _packs(scheme, weights)


def _bounds(scheme: str, weights: str | None) -> bool:
    return scheme == "dynamic" or _calibrates(scheme, weights)


def _gates(scheme: str, _: str | None) -> bool:
    return scheme in {"static", "dynamic"}


def _trains(scheme: str, _: str | None) -> bool:
    return scheme == "qat"


_OF_PACKING: dict[str, Any] = {"group_size": 32, "symmetric": False}
_OF_TRAINING: dict[str, Any] = {
    "epochs": 3, "learning_rate": 0.001, "training_batch_size": 64, "optimizer": "sgd", "weight_decay": 1e-4,
}  # fmt: skip
_OF_TEACHER: dict[str, Any] = {"temperature": 4.0, "alpha": 0.7}
_OF_CALIBRATION = (
    "observer", "percentile", "symmetric_activations", "samples", "bias_correction", "smooth_quant", "smooth_alpha",
)  # fmt: skip
_MEANT: dict[str, Callable[[str, str | None], bool]] = {
    **dict.fromkeys(_OF_CALIBRATION, _calibrates),
    **dict.fromkeys(("reduce_range",), _bounds),
    **dict.fromkeys(("evaluations", "gate_rows"), _gates),
    **dict.fromkeys(_OF_PACKING, _packs),
    **dict.fromkeys((*_OF_TRAINING, "teacher", *_OF_TEACHER), _trains),
}
"""Whether a scheme with weights of a kind can honour a field; what is not named here, all can."""


class QuantizeSpec(StepSpec):
    """Store weights in fewer bits, and where the scheme says so compute with integers.

    A field that means nothing to the scheme must be left at its default.
    """

    method: Literal["quantize"]
    scheme: Literal["static", "dynamic", "weight_only", "qat", "cast"] = Field(
        "static",
        description="static: ranges of activations are fixed beforehand on calibration rows. "
        "dynamic: linear layers quantize what comes in as they run. "
        "weight_only: weights of linear layers and embeddings are packed in groups, sums stay in float. "
        "qat: the network trains with its own rounding; int8 ends as static does, int4 as weight_only. "
        "cast: weights are stored as 16-bit floats, for size alone.",
    )
    weights: Literal["int8", "int4", "fp16", "bf16"] = Field(
        "int8",
        description="int8: symmetric, one scale an output channel, or a group where the scheme is weight_only. "
        "int4: of weight_only and qat. fp16, bf16: of cast, which takes fp16 where nothing is given.",
    )
    activations: Literal["uint8"] = Field("uint8", description="Asymmetric, one scale a tensor.")
    observer: Observer = Field(
        "histogram",
        description="How ranges of activations are found. minmax: all that was seen; percentile: all but its tails; "
        "histogram: the least expected error, of steps and of what is cut off; mse: the least error measured.",
    )
    percentile: float = Field(
        99.99, gt=50, le=100, description="Of the values seen, the percentage that the observer percentile keeps."
    )
    symmetric_activations: bool = Field(
        default=False,
        description="Zero lies in the middle of the bytes, at 128, so that both signs reach equally far; behind an "
        "activation that cuts off at zero it stays at their end.",
    )
    samples: int = Field(256, ge=1, le=100_000, description="Calibration rows to observe.")
    batch_size: int = Field(
        32,
        ge=1,
        le=4096,
        description="Calibration rows at a time, and those of the gate; a fixed batch stays as it is.",
    )
    reduce_range: Choice = Field(
        "auto",
        description="Keep weights in seven bits, so that 16-bit sums cannot saturate; auto: where there is no VNNI.",
    )
    bias_correction: Choice = Field(
        "auto",
        description="Move biases by what quantization shifts each output channel's mean (Nagel 2019); "
        "auto: where outputs on calibration rows come nearer to the float ones.",
    )
    smooth_quant: Choice = Field(
        "auto",
        description="Move scale from activations into the weights that read them (Xiao 2023), where a layer norm or "
        "a linear layer can take it; auto: where outputs on calibration rows come nearer to the float ones.",
    )
    smooth_alpha: float = Field(0.5, ge=0, le=1, description="Share of the activations' range that weights take over.")
    include: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Only these layers: names, patterns such as stages.* (fnmatch) or operators such as conv2d; "
        "all where none is given.",
    )
    exclude: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Layers that stay in float, likewise; of static and qat operators without weights too, such as "
        "add, mul or relu. What is in float anyway may be named as well.",
    )
    overrides: dict[str, LayerOverride] = Field(
        {},
        max_length=100,
        description="Single layers, by name, operator or pattern. Where several match, a name goes before a pattern "
        "of names, of these the one with most characters beside its wildcards first, then operators, and * last.",
    )
    evaluations: int = Field(
        64,
        ge=1,
        le=10_000,
        description="With an objective, of static and dynamic: how many choices of layers may be tried to hold it by "
        "leaving layers in float.",
    )
    gate_rows: int = Field(
        1024, ge=1, le=100_000, description="With an objective: rows to judge those choices on, never validation rows."
    )
    group_size: Literal[32, 64, 128] | None = Field(
        None, description="Weights along a layer's inputs that share a scale, in packed weights; 32."
    )
    symmetric: bool | None = Field(
        None, description="Whether the groups of packed weights have no zero point of their own; false."
    )
    epochs: int | None = Field(None, ge=1, le=1000, description="Passes over the training split, of qat; 3.")
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="Peak rate of the cosine schedule, of qat; 0.001."
    )
    training_batch_size: int | None = Field(None, ge=1, le=65536, description="Rows a training step, of qat; 64.")
    optimizer: Literal["sgd", "adamw"] | None = Field(
        None, description="SGD with Nesterov momentum 0.9, or AdamW, of qat; sgd."
    )
    weight_decay: float | None = Field(None, ge=0, le=1, description="Decay of weights, of qat; 0.0001.")
    teacher: Literal["baseline"] | None = Field(
        None, description="Train qat on the uploaded network's outputs too; null: on the labels alone."
    )
    temperature: float | None = Field(None, gt=0, le=100, description="Of the teacher's term, as in distill; 4.")
    alpha: float | None = Field(None, ge=0, le=1, description="The teacher's share of the loss, as in distill; 0.7.")

    def ranked_overrides(self, layers: Collection[str]) -> list[tuple[str, LayerOverride]]:
        """List the overrides so that the first which matches a layer holds, by how much its pattern says."""

        def rank(pattern: str) -> tuple[int, int, str]:
            literal = len(WILDCARDS.sub("", pattern))
            kind = 0 if pattern in layers else 3 if not literal else 2 if literal == len(pattern) else 1
            return kind, -literal, pattern

        return [(pattern, self.overrides[pattern]) for pattern in sorted(self.overrides, key=rank)]

    @property
    def takes_percentile(self) -> bool:
        """Whether any range is found by the observer that ``percentile`` is about."""
        return "percentile" in {self.observer, *(override.observer for override in self.overrides.values())}

    @property
    def calibrates(self) -> bool:
        """Whether ranges are found on calibration rows."""
        return _calibrates(self.scheme, self.weights)

    @property
    def packs(self) -> bool:
        """Whether weights end as packed groups beside float activations."""
        return _packs(self.scheme, self.weights)

    @property
    def trained_epochs(self) -> int:
        return self.epochs or 0

    @property
    def training(self) -> TrainingSpec | None:
        """Give qat's training as the step of its own that it would be."""
        if self.scheme != "qat":
            return None
        fields = self.model_dump(include=_OF_TRAINING.keys() - {"training_batch_size"})
        # What is learned is the rounding to integers, which products of fewer bits would hide.
        fields |= {"batch_size": self.training_batch_size, "precision": "float32"}
        if self.teacher is None:
            return FinetuneSpec(method="finetune", **fields)
        return DistillSpec(method="distill", **fields, **self.model_dump(include={"teacher", *_OF_TEACHER}))

    @model_validator(mode="before")
    @classmethod
    def _fill_by_scheme(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        scheme = given.get("scheme", "static")
        filled: dict[str, Any] = {"weights": "fp16"} if scheme == "cast" else {}
        if _packs(scheme, given.get("weights")):
            filled |= _OF_PACKING
        if scheme == "qat":
            filled |= _OF_TRAINING
            filled |= _OF_TEACHER if given.get("teacher") is not None else {}
        return given | {name: value for name, value in filled.items() if given.get(name) is None}

    @field_validator("weights")
    @classmethod
    def _fit_weights(cls, weights: str, others: ValidationInfo) -> str:
        scheme = others.data.get("scheme", "static")
        if weights not in _WEIGHTS[scheme]:
            raise ValueError(f"{scheme} stores {' or '.join(_WEIGHTS[scheme])} weights, not {weights}")
        return weights

    @field_validator(*_MEANT)
    @classmethod
    def _fit_scheme(cls, value: Any, others: ValidationInfo) -> Any:
        name, scheme, weights = str(others.field_name), others.data.get("scheme"), others.data.get("weights")
        if scheme is None or weights is None or value == cls.model_fields[name].default:
            return value
        if not _MEANT[name](scheme, weights):
            raise ValueError(f"{name} means nothing to {scheme} with {weights} weights")
        if name in _OF_TEACHER and others.data.get("teacher") is None:
            raise ValueError(f"{name} is about a teacher; there is none")
        return value

    @field_validator("smooth_alpha")
    @classmethod
    def _fit_smoothing(cls, alpha: float, others: ValidationInfo) -> float:
        if others.data.get("smooth_quant") == "off" and alpha != cls.model_fields["smooth_alpha"].default:
            raise ValueError("smooth_alpha is about smooth_quant, which is off")
        return alpha

    @field_validator("overrides")
    @classmethod
    def _fit_overrides(cls, overrides: dict[str, LayerOverride], others: ValidationInfo) -> dict[str, LayerOverride]:
        scheme, weights = others.data.get("scheme"), others.data.get("weights")
        if scheme is None or weights is None:
            return overrides
        calibrates, packs = _calibrates(scheme, weights), _packs(scheme, weights)
        for pattern, override in overrides.items():
            if override.observer is not None and not calibrates:
                raise ValueError(f"{pattern}: an observer means nothing to {scheme} with {weights} weights")
            if override.bits is not None and not (calibrates or (packs and override.bits in _PACKED_BITS)):
                takes = f"packs {' or '.join(map(str, _PACKED_BITS))} bits" if packs else "has one width for all layers"
                raise ValueError(f"{pattern}: {scheme} {takes}, not {override.bits}")
        return overrides
