"""What every step that trains takes, and training on labels alone."""

from typing import Annotated, Literal

from pydantic import Field

from app.domain.steps.step import StepSpec

Weight = Annotated[float, Field(ge=0, le=1e6)]


class TrainingSpec(StepSpec):
    """What every training step can set."""

    epochs: int = Field(10, ge=1, le=1000, description="Passes over the training split.")
    learning_rate: float = Field(0.01, gt=0, le=10, description="Peak rate of the cosine schedule.")
    batch_size: int = Field(64, ge=1, le=65536, description="Rows a step.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with Nesterov momentum 0.9, or AdamW.")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Decay of weights; norms and biases have none.")
    class_weights: Literal["balanced"] | Annotated[tuple[Weight, ...], Field(min_length=1, max_length=65536)] | None = (
        Field(
            None,
            description="Weights of the classes in the loss on labels, against imbalance: a list; or balanced: rows / "
            "(classes · rows of the class), of multilabel rows without / rows with the label. For classification, "
            "multilabel (where they weigh the ones) and token_classification.",
        )
    )

    @property
    def trained_epochs(self) -> int:
        return self.epochs


class FinetuneSpec(TrainingSpec):
    """Train the network on the labels alone."""

    method: Literal["finetune"]
