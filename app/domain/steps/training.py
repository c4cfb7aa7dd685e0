"""What every step that trains takes, and training on labels alone."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from app.domain.exact import Exact
from app.domain.steps.step import StepSpec

Weight = Annotated[float, Field(ge=0, le=1e6)]

_MEANT = {
    "momentum": ("optimizer", "sgd"),
    "decay_at": ("schedule", "step"),
    "decay_factor": ("schedule", "step"),
}
"""Fields that mean something beside one choice of another field alone."""


class Augmentation(Exact):
    """Random changes of images (batch, channels, height, width), drawn anew for every row in every epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: bool = Field(default=False, description="Mirror half of the rows from left to right.")
    crop: int = Field(
        0, ge=0, le=1024, description="Pad each side by so many pixels and cut the old size out anywhere (He 2016)."
    )
    cutout: int = Field(
        0, ge=0, le=4096, description="Side, in pixels, of a square blanked out around any pixel (DeVries 2017)."
    )
    fill: float = Field(
        0.0, ge=-1e6, le=1e6, description="What stands in padding and in blanked out squares, in the tensor's own unit."
    )

    @model_validator(mode="after")
    def _change_something(self) -> Self:
        if not (self.flip or self.crop or self.cutout):
            raise ValueError("give flip, crop, cutout or several of them")
        return self


class TrainingSpec(StepSpec):
    """What every training step can set."""

    epochs: int = Field(
        10,
        ge=1,
        le=1000,
        description="Passes over the training split, less a tenth that is held out to choose the best epoch. Batches "
        "are full: the rows that are left over, fewer than one batch has, wait for another epoch, whose order is drawn "
        "anew. The report tells the rows of an epoch as epoch_rows.",
    )
    learning_rate: float = Field(0.01, gt=0, le=10, description="Peak rate of the schedule.")
    batch_size: int = Field(64, ge=1, le=65536, description="Rows a batch.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with Nesterov momentum, or AdamW.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd; 0 is plain SGD.")
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="Decay of weights; norms, biases and tables of embeddings have none."
    )
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine",
        description="How the rate goes on behind the warm-up. cosine: down to zero along half a cosine (Loshchilov "
        "2017, eq. 5); step: times decay_factor at each of decay_at (He 2016); constant: it stays.",
    )
    decay_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.75),
        min_length=1,
        max_length=20,
        description="Of step: at which shares of the training the rate falls, in rising order.",
    )
    decay_factor: float = Field(0.1, gt=0, lt=1, description="Of step: what the rate is multiplied by each time.")
    warm_up_epochs: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="Epochs, or a share of one, in which the rate rises to its peak line by line; null: a twentieth "
        "of the training, one update at least.",
    )
    clip_norm: float | None = Field(
        None, gt=0, le=1e6, description="Scale the gradients of an update down to this norm of all together."
    )
    accumulate: int = Field(
        1, ge=1, le=1024, description="Batches whose mean gradient makes an update; the last of an epoch may have less."
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Judge and keep not the weights but their exponential moving average with this decay, which update "
        "t takes for min(ema, (1 + t) / (10 + t)).",
    )
    mixup: float | None = Field(
        None, gt=0, le=100, description="Mix pairs of rows by shares drawn from Beta(mixup, mixup) (Zhang 2018)."
    )
    augment: Augmentation | None = Field(None, description="Random changes of images; null: rows stay as they are.")
    early_stopping: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Stop once so many epochs in a row were no better on the rows of train that are held out.",
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto",
        description="What products are computed in; weights and their updates stay in float32. auto: bfloat16 on a GPU "
        "that has it, and on a CPU that has it where it was measured to be clearly faster before the first batch. The "
        "report's recipe names the choice.",
    )
    compile: Literal["off", "auto"] = Field(
        "off",
        description="auto: compile the network where the training is long enough to gain more than compiling takes, "
        "and keep that where it was measured to be faster.",
    )
    class_weights: Literal["balanced"] | Annotated[tuple[Weight, ...], Field(min_length=1, max_length=65536)] | None = (
        Field(
            None,
            description="Weights of the classes in the loss on labels, against imbalance: a list; or balanced: rows / "
            "(classes · rows of the class), of multilabel rows without / rows with the label. For classification, "
            "multilabel (where they weigh the ones), token_classification and segmentation.",
        )
    )

    @property
    def trained_epochs(self) -> int:
        return self.epochs

    @field_validator(*_MEANT)
    @classmethod
    def _fit_choice(cls, value: Any, others: ValidationInfo) -> Any:
        name = str(others.field_name)
        decider, choice = _MEANT[name]
        chosen = others.data.get(decider)
        if chosen not in (None, choice) and value != cls.model_fields[name].default:
            raise ValueError(f"{name} is of the {decider} {choice}; it is {chosen}")
        return value

    @field_validator("decay_at")
    @classmethod
    def _rise(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if list(shares) != sorted(set(shares)):
            raise ValueError("the shares must rise")
        return shares

    @field_validator("warm_up_epochs", "early_stopping")
    @classmethod
    def _fit_epochs(cls, value: float | None, others: ValidationInfo) -> float | None:
        epochs = others.data.get("epochs")
        if value is not None and epochs is not None and value >= epochs:
            raise ValueError(f"it must be less than the {epochs} epochs that there are")
        return value


class FinetuneSpec(TrainingSpec):
    """Train the network on the labels alone."""

    method: Literal["finetune"]
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each label that all classes divide among themselves (Szegedy 2016, §7)."
    )
