"""Whether what a step does to rows while it trains is possible with a model's inputs and a data set's rows."""

from app.domain.compatibility.refusal import refuse
from app.domain.dataset import DatasetFacts
from app.domain.errors import DatasetMismatch, UnsupportedNetwork, ValidationFailed
from app.domain.model import ModelFacts
from app.domain.steps.training import Augmentation, TrainingSpec

_IMAGE_DIMENSIONS = 4


def check(step: TrainingSpec, model: ModelFacts, dataset: DatasetFacts, pointer: str) -> None:
    """Raise the first reason for which the step could only fail."""
    inputs = model.signature.inputs
    if step.augment is not None:
        _check_images(step.augment, model, f"{pointer}/augment")
    if step.mixup is not None:
        whole = [tensor for tensor in inputs if not tensor.dtype.startswith("float")]
        if whole:
            message = f"mixup takes shares of rows, and the input {whole[0].name!r} is {whole[0].dtype}."
            raise refuse(UnsupportedNetwork, f"{pointer}/mixup", message)
    check_rows(model, step.batch_size, pointer)
    batch = inputs[0].shape[0]
    rows = (batch if isinstance(batch, int) else step.batch_size) * step.accumulate
    samples = dataset.splits["train"].samples
    if step.accumulate > 1 and rows > samples:
        message = f"An update of {step.accumulate} batches takes {rows} rows; there are {samples} to train with."
        raise refuse(DatasetMismatch, f"{pointer}/accumulate", message, "Accumulate less, or take smaller batches.")


def check_rows(model: ModelFacts, batch_size: int | None, pointer: str, field: str = "batch_size") -> None:
    """Raise ValidationFailed where batches have one row, of which a batch norm makes nothing but zeros.

    ``field`` is the step's that holds the size of a batch.
    """
    fixed = model.signature.inputs[0].shape[0]
    norm = next((layer.name for layer in model.layers if layer.op == "batch_norm"), None)
    if norm is None or (fixed if isinstance(fixed, int) else batch_size) != 1:
        return
    message = f"Batches have one row, and the batch norm {norm} trains on two or more."
    if isinstance(fixed, int):
        raise refuse(ValidationFailed, pointer, message, "Export the network with a dynamic batch.")
    raise refuse(ValidationFailed, f"{pointer}/{field}", message, "Take larger batches.")


def _check_images(augment: Augmentation, model: ModelFacts, pointer: str) -> None:
    inputs = model.signature.inputs
    image = inputs[0]
    if len(inputs) > 1 or len(image.shape) != _IMAGE_DIMENSIONS or not image.dtype.startswith("float"):
        told = ", ".join(f"{tensor.name} is {tensor.dtype} {list(tensor.shape)}" for tensor in inputs)
        message = f"What is augmented is one input of float images, [batch, channels, height, width]; {told}."
        raise refuse(UnsupportedNetwork, pointer, message)
    sides = [side for side in image.shape[2:] if isinstance(side, int)]
    for name, pixels in (("crop", augment.crop), ("cutout", augment.cutout)):
        if sides and pixels >= min(sides):
            message = f"{name} takes {pixels} pixels; images are {' by '.join(map(str, image.shape[2:]))}."
            raise refuse(UnsupportedNetwork, f"{pointer}/{name}", message)
