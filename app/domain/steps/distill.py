"""What distillation takes."""

from typing import Literal

from pydantic import Field

from app.domain.steps.training import TrainingSpec


class DistillSpec(TrainingSpec):
    """Train the network as it stands (the student) on the labels and a teacher's outputs."""

    method: Literal["distill"]
    teacher: Literal["baseline"] = Field("baseline", description="The uploaded network itself.")
    temperature: float = Field(4.0, gt=0, le=100, description="T in T²·KL(softmax(z_T/T) ‖ softmax(z_S/T)).")
    alpha: float = Field(
        0.7, ge=0, le=1, description="Share of the teacher's term in the loss; the labels have the rest."
    )
