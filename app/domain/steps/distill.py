"""What distillation takes: who teaches, who learns, and what of the teacher is imitated."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from app.domain.exact import Exact
from app.domain.steps.training import TrainingSpec

BASELINE = "baseline"
Loss = Literal["kd", "dkd", "mse", "cosine", "hint"]
OF_OUTPUTS = frozenset({"mse", "cosine"})
"""Losses that compare outputs of any kind and need no labels."""
OF_CLASSES = frozenset({"kd", "dkd"})
"""Losses that take outputs for logits of classes of which one holds."""
DEFAULT_LOSS: dict[str, Loss] = {
    "classification": "kd",
    "token_classification": "kd",
    "language_modelling": "kd",
    "segmentation": "kd",
    "multilabel": "mse",
    "regression": "mse",
    "embedding": "cosine",
}
"""By the name of the task: kd where outputs are logits of classes of which one holds."""
DEFAULT_ALPHA, ALPHA_WITHOUT_LABELS = 0.7, 1.0
_MODEL_ID = r"^mdl_[0-9A-HJKMNP-TV-Z]{26}$"
_OF_CLASSES = ("temperature", "temperature_end", "logit_standardization")
_OF_DKD = ("dkd_alpha", "dkd_beta")
_FORMER = {"dkd_beta": 8.0}
"""Defaults of before, which stand in the recipes that reports of that time have filled in."""


class HintPair(Exact):
    """A layer of the student that learns to give what a layer of the teacher gives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str = Field(description="Name of the teacher's layer.")
    student: str = Field(description="Name of the student's layer.")


class DerivedStudent(Exact):
    """A student made from the network: of fewer channels, of fewer blocks, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: float | None = Field(
        None,
        ge=0.05,
        lt=1,
        description="Share of the channels, heads and hidden units that each layer keeps, the most important by l2 "
        "with their weights. Layers that are coupled keep the same; inputs and outputs stay whole.",
    )
    depth: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the blocks that stay, evenly spaced, of those that can go: residual blocks and encoder "
        "layers, and whatever else is repeated, that give what they take in shape. One of each repeated kind stays.",
    )

    @model_validator(mode="after")
    def _be_smaller(self) -> Self:
        if self.width is None and self.depth is None:
            raise ValueError("give a width, a depth or both")
        return self


def _kind(given: Any) -> str:
    return "model" if isinstance(given, str) else "derived"


class DistillSpec(TrainingSpec):
    """Train a student on the labels and on what a teacher makes of the same rows.

    ``L = (1 − alpha)·L_labels + alpha·Σ w·L_teacher`` over the losses that are named.
    """

    method: Literal["distill"]
    teacher: str = Field(
        BASELINE,
        pattern=rf"^baseline$|{_MODEL_ID}",
        description="The uploaded network itself, baseline, or the id of another model with the same inputs. Its "
        "outputs are computed in float32, once where rows stay as they are and up to 8 GiB of them can be kept. An "
        "embedding chooses its epoch by this teacher's vectors; the report compares it with the uploaded model's, so "
        "that beside another teacher no objective can be set.",
    )
    teacher_output: str | None = Field(
        None, description="Name of the teacher's output to learn from, as its signature has it; the first."
    )
    student: (
        Annotated[
            Annotated[Annotated[str, Field(pattern=_MODEL_ID)], Tag("model")]
            | Annotated[DerivedStudent, Tag("derived")],
            Discriminator(_kind),
        ]
        | None
    ) = Field(
        None,
        description="Who learns, in the first step of a recipe: the id of another model with the same inputs, or a "
        "width and a depth to derive one from the uploaded network. null: the network as the recipe has it.",
    )
    loss: Loss | None = Field(
        None,
        description="What of the teacher is imitated. kd: T²·KL(softmax(z_T/T) ‖ softmax(z_S/T)) (Hinton 2015); "
        "dkd: that in two parts, of the label and of all other classes (Zhao 2022); mse: outputs as they are; "
        "cosine: the direction of outputs, of embeddings; hint: what layers inside give (Romero 2015). "
        "null: what the task allows, kd where one class of several holds, cosine for embeddings, else mse.",
    )
    losses: dict[Loss, Annotated[float, Field(gt=0, le=1000)]] = Field(
        {}, description="Instead of one loss: a weighted sum, the weight of each by its name."
    )
    temperature: float = Field(4.0, gt=0, le=100, description="T of kd and dkd.")
    temperature_end: float | None = Field(
        None, gt=0, le=100, description="T at the end of the training, which it reaches linearly; null: it stays."
    )
    alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the teacher's term in the loss; the labels have the rest. null: 0.7, and 1 where no "
        "labels are needed: of embeddings, and where mse and cosine are all that is imitated. hint alone leaves the "
        "layers behind the last pair untaught, so that beside it labels keep their share where there are any.",
    )
    alpha_end: float | None = Field(
        None, ge=0, le=1, description="alpha at the end of the training, which it reaches linearly; null: it stays."
    )
    logit_standardization: bool = Field(
        default=False,
        description="Take the logits of each row, of teacher and student, to mean 0 and deviation 1 before kd or dkd, "
        "so that their order is learned and not their size (Sun 2024). It wants a higher learning_rate: its gradients "
        "are the smaller the larger the student's logits are.",
    )
    dkd_alpha: float = Field(1.0, ge=0, le=100, description="Weight of dkd's part of the label.")
    dkd_beta: float = Field(
        2.0,
        ge=0,
        le=100,
        description="Weight of dkd's part of all other classes. Its paper takes 8 for a hundred classes, behind 20 "
        "epochs in which the term grows; with ten classes 8 was measured to be worse than labels alone, and 2 as good "
        "as kd. alpha with alpha_end lets the whole term grow.",
    )
    hints: tuple[HintPair, ...] = Field(
        (),
        max_length=16,
        description="Of hint: which layers learn from which, with a 1x1 adapter that is trained beside the student. "
        "The last layers of stages that match, where none are given.",
    )

    @property
    def imitated(self) -> dict[Loss, float]:
        """Weights of the losses that are named; empty where the task is to choose."""
        return {self.loss: 1.0} if self.loss is not None else dict(self.losses)

    @property
    def models(self) -> dict[str, str]:
        """Ids of other models that the step needs, by the field that names each."""
        named = {"teacher": self.teacher, "student": self.student}
        return {field: name for field, name in named.items() if isinstance(name, str) and name != BASELINE}

    def filled(self, task: str) -> Self:
        """Give the step with its loss and its alpha, which a task of this name chooses where nobody did."""
        imitated = self.imitated or {DEFAULT_LOSS[task]: 1.0}
        without = imitated.keys() <= OF_OUTPUTS or task == "embedding"
        alpha = (ALPHA_WITHOUT_LABELS if without else DEFAULT_ALPHA) if self.alpha is None else self.alpha
        one = self.loss or (None if self.losses else next(iter(imitated)))
        return self.model_copy(update={"loss": one, "alpha": alpha})

    @property
    def needs_labels(self) -> bool:
        """Whether labels have a part in the loss of a step that is filled in."""
        shares = {self.alpha, self.alpha_end} - {None}
        return shares != {ALPHA_WITHOUT_LABELS} or "dkd" in self.imitated

    @model_validator(mode="after")
    def _name_once(self) -> Self:
        if self.loss is not None and self.losses:
            raise ValueError("give one loss or losses with their weights, not both")
        return self

    @model_validator(mode="after")
    def _fit_losses(self) -> Self:
        named = self.imitated.keys()
        # Where the task chooses, it may choose kd; what the task makes of it is looked at with the task.
        if named and not named & OF_CLASSES and (field := self._first_set(_OF_CLASSES)):
            raise ValueError(f"{field} is of kd and dkd; the loss is {' and '.join(sorted(named))}")
        if "dkd" not in named and (field := self._first_set(_OF_DKD)):
            raise ValueError(f"{field} is of dkd, which is no part of the loss")
        if "hint" not in named and self.hints:
            raise ValueError("hints are of the loss hint, which is no part of it")
        return self

    def set_of_classes(self) -> str | None:
        """Name the first field of kd and dkd alone that is not at its default."""
        return self._first_set(_OF_CLASSES)

    def _first_set(self, names: tuple[str, ...]) -> str | None:
        """Name the first of these fields that is not at its default."""
        fields = type(self).model_fields
        return next(
            (name for name in names if getattr(self, name) not in (fields[name].default, _FORMER.get(name))), None
        )
