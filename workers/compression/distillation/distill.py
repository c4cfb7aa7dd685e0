"""Distillation: train a student on the labels and on what a teacher makes of the same rows."""

from dataclasses import replace

from app.domain.steps.distill import DistillSpec
from workers.compression.distillation.imitation import imitate
from workers.compression.distillation.students import find_student
from workers.compression.network import Network
from workers.compression.step import Context, StepResult
from workers.compression.training.loop import fit


def run(network: Network, spec: DistillSpec, context: Context) -> StepResult:
    """Train the student that the step names by the sum of its losses.

    Raises:
        NoStudent: the network's structure allows none as asked.
        ValidationFailed: layers or outputs that the step names are not there, or do not fit.
        RecipeOrder, DatasetMismatch, Diverged: as of training.
    """
    spec = spec.filled(context.task.name)
    student = find_student(network, spec, context)
    imitation = imitate(spec, context, student.network)
    try:
        result = fit(student.network, spec, context, imitation, imitation.advance)
    finally:
        imitation.close()
    details = result.details | {"teacher": imitation.describe(), "student": student.details}
    began = None if spec.student is None else student.network
    return replace(result, details=details, spec=result.spec or spec, began=began)
