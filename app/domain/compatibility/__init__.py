"""Whether a recipe makes sense for a model and a data set, told before anything is queued."""

from app.domain.compatibility import data, prune, quantize
from app.domain.compatibility.refusal import refuse
from app.domain.dataset import DatasetFacts
from app.domain.errors import NotTrainable, RecipeOrder
from app.domain.job import JobSpec
from app.domain.model import ModelFacts
from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import QuantizeSpec


def check(spec: JobSpec, model: ModelFacts, dataset: DatasetFacts) -> None:
    """Raise the first reason for which the job could only fail."""
    data.check_fields(model, dataset)
    data.check_labels(model, dataset)
    data.check_splits(spec, dataset)
    _check_order(spec, model)
    prune.check_analysis(spec)
    _check_steps(spec, model)


def _check_order(spec: JobSpec, model: ModelFacts) -> None:
    for position, step in enumerate(spec.recipe):
        if isinstance(step, QuantizeSpec) and model.quantized:
            message = "The model is quantized already: quantize the one that it was made from."
            raise refuse(RecipeOrder, f"/recipe/{position}", message)
    for position, (before, step) in enumerate(zip(spec.recipe, spec.recipe[1:], strict=False), start=1):
        if isinstance(before, QuantizeSpec):
            message = f"Nothing can follow quantize: move {step.method} before it."
            raise refuse(RecipeOrder, f"/recipe/{position}", message)


def _check_steps(spec: JobSpec, model: ModelFacts) -> None:
    for position, step in enumerate(spec.recipe):
        pointer = f"/recipe/{position}"
        if step.trained_epochs and not model.trainable:
            raise refuse(NotTrainable, pointer, "The step trains, and this network was exported without a way to.")
        if isinstance(step, PruneSpec):
            prune.check(step, model, pointer)
        if isinstance(step, QuantizeSpec):
            quantize.check(step, spec.target, model, pointer, gated=spec.objective is not None)
