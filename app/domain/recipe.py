"""What a user may ask for: one spec a method, an ordered list of them a recipe.

Adding a method is one spec here, its file in ``workers.compression`` and one entry in ``SPECS``.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_STEPS = 8
DEFAULT_AMOUNT = 0.5
_OF_CHANNELS = ("macs_ratio", "parameters_ratio", "minimum_channels", "round_to", "overrides", "rounds")
_MEASURES = ("amount", "macs_ratio", "parameters_ratio")


class StepSpec(BaseModel):
    """What all steps share: unknown fields are refused, and a spec never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trains: ClassVar[bool] = False
    """Whether the step needs the training split and a trainable network."""


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
        "l1: mean |w|; l2: root mean square of its weights; "
        "taylor: |Σ w·∂L/∂w| on train rows; bn_scale: |γ| of the batch norms behind it, channels without one stay; "
        "wanda: |w| times the norm of its input, of single weights of linear layers; "
        "random: drawn by the job's seed, the control.",
    )
    amount: float | None = Field(
        None,
        gt=0,
        le=0.95,
        description="Share of the prunable channels or weights to remove; 0.5 where no ratio is given.",
    )
    macs_ratio: float | None = Field(
        None, gt=1, le=1000, description="Instead of an amount: how many times fewer multiplications, within 3 %."
    )
    parameters_ratio: float | None = Field(
        None, gt=1, le=1000, description="Instead of an amount: how many times fewer parameters, within 3 %."
    )
    minimum_channels: int = Field(1, ge=1, le=65536, description="Channels that each layer keeps at least.")
    round_to: int = Field(
        1, ge=1, le=1024, description="What a layer keeps of its channels is a multiple of this, or all of them."
    )
    exclude: tuple[str, ...] = Field(
        (), max_length=100, description="Layers that stay whole: names or patterns such as stem.* (fnmatch)."
    )
    overrides: dict[str, Annotated[float, Field(ge=0, le=0.95)]] = Field(
        {}, max_length=100, description="Amounts of single layers, by name or pattern; the first that matches holds."
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="Rank channels over the whole network, or remove the same share of each group."
    )
    rounds: int = Field(1, ge=1, le=20, description="Remove the amount in this many rounds, scoring anew in each.")

    @property
    def kept(self) -> tuple[int, int] | None:
        """Give n and m where all but n of every m weights go."""
        keep, colon, block = self.granularity.partition(":")
        return (int(keep), int(block)) if colon else None

    @model_validator(mode="before")
    @classmethod
    def _fill_amount(cls, given: Any) -> Any:
        if isinstance(given, dict) and all(given.get(name) is None for name in _MEASURES):
            if ":" in str(given.get("granularity")):
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
        for name in () if channels else _OF_CHANNELS:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for channels; the granularity is {self.granularity}")
        return self


class TrainingSpec(StepSpec):
    """What every training step can set."""

    trains: ClassVar[bool] = True

    epochs: int = Field(10, ge=1, le=1000, description="Passes over the training split.")
    learning_rate: float = Field(0.01, gt=0, le=10, description="Peak rate of the cosine schedule.")
    batch_size: int = Field(64, ge=1, le=65536, description="Rows a step.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with Nesterov momentum 0.9, or AdamW.")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Decay of weights; norms and biases have none.")


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


class QuantizeSpec(StepSpec):
    """Store weights and compute activations as eight-bit integers."""

    method: Literal["quantize"]
    scheme: Literal["static"] = Field(
        "static", description="Ranges of activations are fixed beforehand on calibration rows."
    )
    weights: Literal["int8"] = Field("int8", description="Symmetric, one scale an output channel.")
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
        default=False, description="Zero lies in the middle of the bytes, at 128, so that both signs reach equally far."
    )
    samples: int = Field(256, ge=1, le=100_000, description="Calibration rows to observe.")
    calibration_batch_size: int = Field(
        32, ge=1, le=4096, description="Calibration rows at a time; a fixed batch stays as it is."
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
        description="Layers that stay in float, likewise; operators without weights too, such as add or matmul.",
    )
    overrides: dict[str, LayerOverride] = Field(
        {}, max_length=100, description="Single layers, by name, pattern or operator; the first that matches holds."
    )
    evaluations: int = Field(
        64,
        ge=1,
        le=10_000,
        description="With an objective: how many choices of layers may be tried to hold it by leaving layers in float.",
    )
    gate_rows: int = Field(
        1024, ge=1, le=100_000, description="With an objective: rows to judge those choices on, never validation rows."
    )


Step = Annotated[PruneSpec | DistillSpec | FinetuneSpec | QuantizeSpec, Field(discriminator="method")]
Recipe = Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS)]

SPECS: dict[str, type[StepSpec]] = {
    "prune": PruneSpec,
    "distill": DistillSpec,
    "finetune": FinetuneSpec,
    "quantize": QuantizeSpec,
}
