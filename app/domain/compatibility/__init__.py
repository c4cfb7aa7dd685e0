"""Whether a recipe makes sense for a model and a data set, told before anything is queued."""

from types import MappingProxyType

from app.domain.compatibility import data, distill, learning, prune, quantize, training
from app.domain.compatibility.refusal import refuse
from app.domain.compatibility.task import resolve_task
from app.domain.dataset import DatasetFacts
from app.domain.errors import NotTrainable, RecipeOrder
from app.domain.job import JobSpec
from app.domain.model import ModelFacts
from app.domain.steps.distill import DistillSpec
from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import QuantizeSpec
from app.domain.steps.training import TrainingSpec


def check(
    spec: JobSpec, model: ModelFacts, dataset: DatasetFacts, others: distill.Models = MappingProxyType({})
) -> None:
    """Raise the first reason for which the job could only fail; ``others`` are models that its steps name."""
    data.check_fields(model, dataset)
    task = resolve_task(spec.task, dataset.labels, model.signature)
    learning.check_objective(spec.objective, task, model.signature)
    learning.check_teachers(spec.objective, spec.recipe, task)
    data.check_splits(spec, dataset)
    for position, step in enumerate(spec.recipe):
        if isinstance(step, DistillSpec):
            distill.check(step, position, model, dataset, others, task)
    # A student may take the network's place, in the first step alone.
    network = distill.student_of(spec.recipe[0], model, others)
    _check_order(spec, network)
    learning.check_steps(spec.recipe, task, model.signature)
    prune.check_analysis(spec)
    _check_steps(spec, network, dataset)


def _check_order(spec: JobSpec, model: ModelFacts) -> None:
    for position, step in enumerate(spec.recipe):
        if isinstance(step, QuantizeSpec) and model.quantized:
            message = "The model is quantized already: quantize the one that it was made from."
            raise refuse(RecipeOrder, f"/recipe/{position}", message)
    for position, (before, step) in enumerate(zip(spec.recipe, spec.recipe[1:], strict=False), start=1):
        if isinstance(before, QuantizeSpec):
            message = f"Nothing can follow quantize: move {step.method} before it."
            raise refuse(RecipeOrder, f"/recipe/{position}", message)


def _check_steps(spec: JobSpec, model: ModelFacts, dataset: DatasetFacts) -> None:
    for position, step in enumerate(spec.recipe):
        pointer = f"/recipe/{position}"
        if step.trained_epochs and not model.trainable:
            raise refuse(NotTrainable, pointer, "The step trains, and this network was exported without a way to.")
        if isinstance(step, PruneSpec):
            prune.check(step, model, pointer)
            if step.trained_epochs:
                training.check_rows(model, None, pointer)
        if isinstance(step, QuantizeSpec):
            quantize.check(step, spec.target, model, pointer, gated=spec.objective is not None)
            # Training to int8 folds batch norms into what is before them first.
            if step.trained_epochs and step.packs:
                training.check_rows(model, step.training_batch_size, pointer, "training_batch_size")
        if isinstance(step, TrainingSpec):
            training.check(step, model, dataset, pointer)
