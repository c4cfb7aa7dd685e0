"""Whether a data set fits a model and has the splits that steps need."""

from app.domain.compatibility.refusal import refuse
from app.domain.dataset import LABEL, DatasetFacts
from app.domain.errors import DatasetMismatch, WinnowError
from app.domain.job import JobSpec
from app.domain.model import ModelFacts, TensorSpec
from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import QuantizeSpec

ONLY_INPUT = "x"
# Some are held out to judge by, some more to choose the epoch by, and two at least must be left.
_FEWEST_TRAIN_ROWS = 5


def _mismatch(message: str) -> WinnowError:
    return refuse(DatasetMismatch, "/dataset_id", message)


def check_fields(model: ModelFacts, dataset: DatasetFacts) -> None:
    fields = {field.name: field for field in dataset.fields}
    inputs = model.signature.inputs
    names = {tensor.name for tensor in inputs}
    known = names | {LABEL} | ({ONLY_INPUT} if len(inputs) == 1 else set())
    if extra := sorted(fields.keys() - known):
        raise _mismatch(f"The model has no input named {', '.join(extra)}; its inputs are {', '.join(sorted(names))}.")
    for tensor in inputs:
        field = fields.get(tensor.name) or (fields.get(ONLY_INPUT) if len(inputs) == 1 else None)
        if field is None:
            raise _mismatch(f"The data set has no field for the model's input {tensor.name!r}.")
        _check_rows(tensor, field)


def _check_rows(tensor: TensorSpec, field: TensorSpec) -> None:
    row = tensor.shape[1:]
    fits = len(row) == len(field.shape) and all(
        isinstance(wanted, str) or wanted == given for wanted, given in zip(row, field.shape, strict=True)
    )
    if not fits:
        raise _mismatch(
            f"A row of the field {field.name!r} has the shape {list(field.shape)}; "
            f"the model's input {tensor.name!r} takes {list(row)}."
        )
    # The engine casts between widths of floats: numpy makes float64 where nobody asks for another.
    both_float = field.dtype.startswith("float") and tensor.dtype.startswith("float")
    if field.dtype != tensor.dtype and not both_float:
        raise _mismatch(
            f"The field {field.name!r} holds {field.dtype}; the model's input {tensor.name!r} takes {tensor.dtype}."
        )


def check_splits(spec: JobSpec, dataset: DatasetFacts) -> None:
    splits = dataset.splits
    if not {"train", "validation"} & splits.keys():
        raise _mismatch("The data set has neither a validation split nor a train split to cut one from.")
    for position, step in enumerate(spec.recipe):
        if step.trained_epochs and ("train" not in splits or splits["train"].samples < _FEWEST_TRAIN_ROWS):
            message = f"The step trains; the data set has fewer than {_FEWEST_TRAIN_ROWS} train rows."
            raise refuse(DatasetMismatch, f"/recipe/{position}", message)
        if isinstance(step, PruneSpec) and step.criterion == "taylor" and "train" not in splits:
            message = "taylor needs train rows to take gradients on; the data set has no train split."
            raise refuse(DatasetMismatch, f"/recipe/{position}/criterion", message)
        if isinstance(step, PruneSpec) and step.analyze and not {"train", "calibration"} & splits.keys():
            message = "An analysis measures on calibration or train rows, never on validation; there are neither."
            raise refuse(DatasetMismatch, f"/recipe/{position}", message)
        calibrates = (isinstance(step, QuantizeSpec) and step.calibrates) or (
            isinstance(step, PruneSpec) and step.criterion == "wanda"
        )
        if calibrates and not {"train", "calibration"} & splits.keys():
            message = "The step needs rows to calibrate on; the data set has neither a calibration nor a train split."
            raise refuse(DatasetMismatch, f"/recipe/{position}", message)
