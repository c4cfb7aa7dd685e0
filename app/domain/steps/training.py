"""What steps that train take: on labels alone, or on a teacher's outputs too."""

from typing import Literal

from pydantic import Field

from app.domain.steps.step import StepSpec


class TrainingSpec(StepSpec):
    """What every training step can set."""

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
