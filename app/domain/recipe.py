"""What a user may ask for: one spec a method, an ordered list of them a recipe.

Adding a method is one spec here, its file in ``workers.compression`` and one entry in ``SPECS``.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

MAX_STEPS = 8
DEFAULT_AMOUNT = 0.5
MOST_AMOUNT = 0.95
_OF_CHANNELS = ("macs_ratio", "parameters_ratio", "minimum_channels", "round_to")
_OF_ROUNDS = ("schedule", "recovery_epochs")
_OF_RECOVERY = ("recovery_method", "recovery_learning_rate")
_MEASURES = ("amount", "macs_ratio", "parameters_ratio")
# An analysis chooses these itself, or stops before they matter.
_NOT_ANALYZED = (*_MEASURES, "round_to", "overrides", "scope", "rounds", "sensitivity")


class StepSpec(BaseModel):
    """What all steps share: unknown fields are refused, and a spec never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trains: ClassVar[bool] = False
    """Whether every step of the method needs the training split and a trainable network."""

    @property
    def trained_epochs(self) -> int:
        """Give the epochs that this step trains for; more than 0 where it needs what :attr:`trains` speaks of."""
        return 0


class PruneSpec(StepSpec):
    """Remove whole channels, so that the network gets physically smaller, or set single weights to zero."""

    method: Literal["prune"]
    granularity: str = Field(
        "channel",
        pattern=r"^(channel|weight|[1-9]\d?:[1-9]\d?)$",
        description="What goes: whole channels with all that is coupled to them; single weights; or, for n:m such as "
        "2:4, all but n of every m weights along a layer's inputs. Zeros make no network faster on a CPU.",
    )
    criterion: Literal["l1", "l2", "taylor", "bn_scale", "wanda", "random"] = Field(
        "l2",
        description="How importance is scored; l1 and l2 of a single weight are its magnitude. "
        "l1: mean |w|; l2: root mean square; both tensor by tensor over what a channel owns: the filters that make it, "
        "or the batch norms' scales right behind them, and the weights that read it; "
        "taylor: |Σ w·∂L/∂w| on train rows; bn_scale: |γ| of the batch norms behind it, channels without one stay; "
        "wanda: |w| times the norm of its input, of single weights of linear layers, always compared within an output; "
        "random: drawn by the job's seed, the control.",
    )
    amount: float | None = Field(
        None,
        gt=0,
        le=MOST_AMOUNT,
        description="Share of the prunable units or weights to remove; 0.5 where no ratio is given. A unit is "
        "one channel with all that is coupled to it; in a transformer a whole attention head counts as one.",
    )
    macs_ratio: float | None = Field(
        None, gt=1, le=1000, description="Instead of an amount: how many times fewer multiplications, within 3 %."
    )
    parameters_ratio: float | None = Field(
        None, gt=1, le=1000, description="Instead of an amount: how many times fewer parameters, within 3 %."
    )
    minimum_channels: int = Field(1, ge=1, le=65536, description="Channels that each layer keeps at least.")
    round_to: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto",
        description="What a layer keeps of its channels is a multiple of this, or all of them. "
        "auto: 8, or the largest of 4, 2 and 1 with which the amount or the ratio is still met within 3 %.",
    )
    exclude: tuple[str, ...] = Field(
        (), max_length=100, description="Layers that stay whole: names or patterns such as stem.* (fnmatch)."
    )
    overrides: dict[str, Annotated[float, Field(ge=0, le=MOST_AMOUNT)]] = Field(
        {}, max_length=100, description="Amounts of single layers, by name or pattern; the first that matches holds."
    )
    scope: Literal["global", "layer"] = Field(
        "global",
        description="Rank over the whole network, or remove the same share of each group or layer. "
        "wanda takes the same share of each output, whatever the scope.",
    )
    rounds: int = Field(1, ge=1, le=20, description="Remove the amount in this many rounds, scoring anew in each.")
    schedule: Literal["constant", "cubic"] = Field(
        "constant",
        description="Share of the amount that is gone after round t of n. constant: t/n; "
        "cubic: 1 − (1 − t/n)³, much at first and ever less (Zhu & Gupta 2017, eq. 1).",
    )
    recovery_epochs: int = Field(
        0,
        ge=0,
        le=1000,
        description="Passes over the training split behind every round but the last, which a step that trains can "
        "follow. A round that removed nothing has none.",
    )
    recovery_method: Literal["finetune", "distill"] = Field(
        "finetune", description="What recovers between rounds: labels alone, or the uploaded network's outputs as well."
    )
    recovery_learning_rate: float = Field(
        0.01, gt=0, le=10, description="Peak rate of the cosine schedule, which each recovery runs through anew."
    )
    analyze: bool = Field(
        False,  # noqa: FBT003 - a field's default
        description="Change nothing: measure, group by group, how accuracy suffers as more of it goes, and keep the "
        "table. Calibration rows judge where they have labels, else train rows; validation rows never do, so that they "
        "stay a fair judge of what the table is used for. The only step of its job.",
    )
    budget_seconds: int = Field(
        600, ge=1, le=7 * 24 * 3600, description="How long an analysis measures; what it left out is in its table."
    )
    sensitivity: str | None = Field(
        None,
        description="Id of a job that analyzed this model, by this criterion and on this data set: more goes where "
        "its table says that accuracy suffers least, and the amount or ratio holds for all groups together.",
    )

    @property
    def trained_epochs(self) -> int:
        return (self.rounds - 1) * self.recovery_epochs

    @property
    def kept(self) -> tuple[int, int] | None:
        """Give n and m where all but n of every m weights go."""
        keep, colon, block = self.granularity.partition(":")
        return (int(keep), int(block)) if colon else None

    @model_validator(mode="before")
    @classmethod
    def _fill_amount(cls, given: Any) -> Any:
        if isinstance(given, dict) and all(given.get(name) is None for name in _MEASURES):
            if given.get("analyze") or ":" in str(given.get("granularity")):
                return given
            return given | {"amount": DEFAULT_AMOUNT}
        return given

    @model_validator(mode="after")
    def _take_one_measure(self) -> Self:
        given = [name for name in _MEASURES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}, not both")
        return self

    @model_validator(mode="after")
    def _fit_granularity(self) -> Self:
        channels, kept = self.granularity == "channel", self.kept
        if kept and kept[0] >= kept[1]:
            raise ValueError(f"{self.granularity} keeps every weight: n must be less than m")
        if kept and self.amount is not None:
            raise ValueError(f"{self.granularity} says itself how much goes: give no amount")
        if self.criterion in (("wanda",) if channels else ("taylor", "bn_scale")):
            raise ValueError(f"{self.criterion} does not score {'channels' if channels else 'single weights'}")
        if not channels and (name := self._first_set(_OF_CHANNELS)):
            raise ValueError(f"{name} is for channels; the granularity is {self.granularity}")
        if kept and (name := self._first_set(("rounds", "analyze", "sensitivity", "overrides"))):
            raise ValueError(f"{name} is for amounts; {self.granularity} says itself how much goes, at once")
        return self

    @model_validator(mode="after")
    def _fit_rounds(self) -> Self:
        if self.rounds == 1 and (name := self._first_set(_OF_ROUNDS)):
            raise ValueError(f"{name} needs two rounds at least; there is one")
        if not self.recovery_epochs and (name := self._first_set(_OF_RECOVERY)):
            raise ValueError(f"{name} needs recovery_epochs; there are none")
        return self

    @model_validator(mode="after")
    def _fit_analysis(self) -> Self:
        if self.analyze and (name := self._first_set(_NOT_ANALYZED)):
            raise ValueError(f"an analysis removes nothing: give no {name}")
        if not self.analyze and (name := self._first_set(("budget_seconds",))):
            raise ValueError(f"{name} bounds an analysis: it needs analyze")
        if self.sensitivity is not None and self.scope == "layer":
            raise ValueError("scope layer takes the same share of every group, sensitivity does not: give one of them")
        return self

    def _first_set(self, names: tuple[str, ...]) -> str | None:
        """Name the first of these fields that is not at its default."""
        fields = type(self).model_fields
        return next((name for name in names if getattr(self, name) != fields[name].default), None)


class TrainingSpec(StepSpec):
    """What every training step can set."""

    trains: ClassVar[bool] = True

    epochs: int = Field(10, ge=1, le=1000, description="Passes over the training split.")
    learning_rate: float = Field(0.01, gt=0, le=10, description="Peak rate of the cosine schedule.")
    batch_size: int = Field(64, ge=1, le=65536, description="Rows a step.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with Nesterov momentum 0.9, or AdamW.")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Decay of weights; norms and biases have none.")

    @property
    def trained_epochs(self) -> int:
        return self.epochs


class DistillSpec(TrainingSpec):
    """Train the network as it stands (the student) on the labels and a teacher's outputs."""

    method: Literal["distill"]
    teacher: Literal["baseline"] = Field("baseline", description="The uploaded network itself.")
    temperature: float = Field(4.0, gt=0, le=100, description="T in T²·KL(softmax(z_T/T) ‖ softmax(z_S/T)).")
    alpha: float = Field(
        0.7, ge=0, le=1, description="Share of the teacher's term in the loss; the labels have the rest."
    )


class FinetuneSpec(TrainingSpec):
    """Train the network on the labels alone."""

    method: Literal["finetune"]


Observer = Literal["histogram", "minmax", "percentile", "mse"]
Choice = Literal["auto", "on", "off"]


class LayerOverride(BaseModel):
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
        "add or mul.",
    )
    overrides: dict[str, LayerOverride] = Field(
        {}, max_length=100, description="Single layers, by name, pattern or operator; the first that matches holds."
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
        fields["batch_size"] = self.training_batch_size
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


Step = Annotated[PruneSpec | DistillSpec | FinetuneSpec | QuantizeSpec, Field(discriminator="method")]
Recipe = Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS)]

SPECS: dict[str, type[StepSpec]] = {
    "prune": PruneSpec,
    "distill": DistillSpec,
    "finetune": FinetuneSpec,
    "quantize": QuantizeSpec,
}
