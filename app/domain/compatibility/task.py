"""What a network and a data set can learn together: told by both, or asked for and checked against them."""

from collections.abc import Callable, Mapping, Sequence

from app.domain.compatibility.refusal import refuse
from app.domain.dataset import LABEL, LabelFacts
from app.domain.errors import DatasetMismatch, LabelsOutOfRange, TaskMismatch, UnsupportedNetwork, WinnowError
from app.domain.learning_task import IGNORED, MASKS, LearningTask
from app.domain.model import Dimension, Signature, TensorSpec

_DATASET, _MODEL, _TASK = "/dataset_id", "/model_id", "/task"
_TOKENS = "input_ids"


def resolve_task(asked: LearningTask | None, labels: LabelFacts | None, signature: Signature) -> LearningTask:
    """Tell the task of a job; ``labels`` is None where the data set has no ``y``.

    Raises:
        UnsupportedNetwork, DatasetMismatch: the outputs and the labels make no task together.
        LabelsOutOfRange: a label is none of the network's classes.
        TaskMismatch: the task that was asked for is none that they make.
    """
    task = _told_task(labels, signature.outputs[0]) if asked is None else asked
    _CHECKS[task](labels, signature)
    return task


def class_count(task: LearningTask, signature: Signature) -> Dimension:
    """Give how many classes the first output tells apart, where it tells any."""
    return signature.outputs[0].shape[1 if task is LearningTask.SEGMENTATION else -1]


def token_input(signature: Signature) -> TensorSpec | None:
    """Give the input of which a language model without labels predicts the next: input_ids, or the only integers."""
    whole = [spec for spec in signature.inputs if _is_whole(spec.dtype) and spec.name not in MASKS]
    named = [spec for spec in whole if spec.name == _TOKENS]
    return next(iter(named or whole), None) if named or len(whole) == 1 else None


def mask_input(signature: Signature) -> TensorSpec | None:
    """Give the input that hides positions, where there is one."""
    return next((spec for name in MASKS for spec in signature.inputs if spec.name == name), None)


def _told_task(labels: LabelFacts | None, output: TensorSpec) -> LearningTask:
    shape = output.shape[1:]
    if labels is None:
        return LearningTask.EMBEDDING
    if labels.dtype.startswith("float"):
        return LearningTask.REGRESSION
    if not labels.shape and labels.whole:
        return LearningTask.CLASSIFICATION
    if labels.binary and len(shape) == 1:
        return LearningTask.MULTILABEL
    if labels.whole and len(labels.shape) == 1 and len(shape) == 2:
        return LearningTask.TOKEN_CLASSIFICATION
    if labels.whole and len(labels.shape) == 2 and len(shape) == 3:
        return LearningTask.SEGMENTATION
    raise refuse(
        DatasetMismatch,
        _DATASET,
        f"A row of the field {LABEL!r} holds {labels.dtype} of the shape {list(labels.shape)}; with the model's first"
        f" output of {list(output.shape)} that makes no task.",
        "Give one class index a row, 0 and 1 for each class, an index a position or a pixel, or floats of the output's"
        " shape.",
    )


def _check_classification(labels: LabelFacts | None, signature: Signature) -> None:
    output = signature.outputs[0].shape
    if len(output) != 2 or not isinstance(output[1], int):
        message = f"The model's first output has the shape {list(output)}; accuracy needs [batch, classes]."
        raise refuse(UnsupportedNetwork, _MODEL, message, "Export it with the logits as its first output.")
    found = _whole(labels, (), "one class index a row")
    _check_classes(found, output[1])


def _check_multilabel(labels: LabelFacts | None, signature: Signature) -> None:
    output = signature.outputs[0].shape
    found = _given(labels, "0 or 1 for each class")
    if not found.binary:
        raise refuse(TaskMismatch, _TASK, f"multilabel needs 0 or 1 for each class; {LABEL!r} holds others as well.")
    if len(output) != 2 or not _fits(found.shape, output[1:]):
        raise _unfit(LearningTask.MULTILABEL, found, output)


def _check_regression(labels: LabelFacts | None, signature: Signature) -> None:
    output = signature.outputs[0]
    found = _given(labels, "numbers of the output's shape")
    if not output.dtype.startswith("float"):
        raise refuse(UnsupportedNetwork, _MODEL, f"The model's first output holds {output.dtype}, not floats.")
    # One number a row is written with or without a dimension of its own.
    plain = [size for size in output.shape[1:] if size != 1]
    if not _fits([size for size in found.shape if size != 1], plain):
        raise _unfit(LearningTask.REGRESSION, found, output.shape)
    if found.ignored:
        message = f"The field {LABEL!r} holds {IGNORED}, which is ignored as the label of a token and nowhere else."
        raise refuse(DatasetMismatch, _DATASET, message)


def _check_embedding(_: LabelFacts | None, signature: Signature) -> None:
    # Labels say nothing of an embedding; a data set may have them all the same.
    output = signature.outputs[0]
    if len(output.shape) < 2 or not output.dtype.startswith("float"):
        message = f"The model's first output is {output.dtype} of {list(output.shape)}, no vector of floats a row."
        raise refuse(UnsupportedNetwork, _MODEL, message)


def _check_tokens(labels: LabelFacts | None, signature: Signature) -> None:
    output = _positions(signature, LearningTask.TOKEN_CLASSIFICATION)
    found = _whole(labels, output[1:2], "a class index for each position")
    _check_classes(found, output[2])


def _check_segmentation(labels: LabelFacts | None, signature: Signature) -> None:
    output = signature.outputs[0].shape
    if len(output) != 4 or not isinstance(output[1], int):
        message = f"The model's first output has the shape {list(output)}; it needs [batch, classes, height, width]."
        raise refuse(UnsupportedNetwork, _MODEL, message)
    _check_classes(_whole(labels, output[2:], "a class index for each pixel"), output[1])


def _check_language(labels: LabelFacts | None, signature: Signature) -> None:
    output = _positions(signature, LearningTask.LANGUAGE_MODELLING)
    if labels is not None:
        _check_classes(_whole(labels, output[1:2], "a token for each position"), output[2])
        return
    tokens = token_input(signature)
    if tokens is None:
        message = f"Without {LABEL!r} the next token is read off an integer input; the model has none that is the only."
        raise refuse(TaskMismatch, _TASK, message, f"Name the input {_TOKENS}, or give labels.")
    if not _fits(tokens.shape[1:], output[1:2]):
        message = f"The input {tokens.name!r} has rows of {list(tokens.shape[1:])}, the output {list(output[1:])}."
        raise refuse(UnsupportedNetwork, _MODEL, message)


_CHECKS: Mapping[LearningTask, Callable[[LabelFacts | None, Signature], None]] = {
    LearningTask.CLASSIFICATION: _check_classification,
    LearningTask.MULTILABEL: _check_multilabel,
    LearningTask.REGRESSION: _check_regression,
    LearningTask.EMBEDDING: _check_embedding,
    LearningTask.TOKEN_CLASSIFICATION: _check_tokens,
    LearningTask.SEGMENTATION: _check_segmentation,
    LearningTask.LANGUAGE_MODELLING: _check_language,
}


def _positions(signature: Signature, task: LearningTask) -> tuple[Dimension, Dimension, int]:
    output = signature.outputs[0].shape
    if len(output) != 3 or not isinstance(output[2], int):
        message = f"The model's first output has the shape {list(output)}; {task} needs [batch, positions, classes]."
        raise refuse(UnsupportedNetwork, _MODEL, message)
    mask = mask_input(signature)
    if mask is not None and not _fits(mask.shape[1:], output[1:2]):
        message = f"The input {mask.name!r} has rows of {list(mask.shape[1:])}, the output {list(output[1:])}."
        raise refuse(UnsupportedNetwork, _MODEL, message)
    return output[0], output[1], output[2]


def _given(labels: LabelFacts | None, what: str) -> LabelFacts:
    if labels is None:
        raise refuse(DatasetMismatch, _DATASET, f"The data set has no field {LABEL!r}; the task needs {what}.")
    return labels


def _whole(labels: LabelFacts | None, shape: Sequence[Dimension], what: str) -> LabelFacts:
    found = _given(labels, what)
    if not found.whole or not _fits(found.shape, shape):
        message = f"The task needs {what}; a row of {LABEL!r} holds {found.dtype} of the shape {list(found.shape)}."
        raise refuse(DatasetMismatch, _DATASET, message)
    return found


def _check_classes(labels: LabelFacts, classes: Dimension) -> None:
    if isinstance(classes, int) and labels.classes is not None and labels.classes > classes:
        message = f"The highest label is {labels.classes - 1}; the model tells {classes} classes apart."
        raise refuse(LabelsOutOfRange, _DATASET, message)


def _fits(given: Sequence[Dimension], wanted: Sequence[Dimension]) -> bool:
    return len(given) == len(wanted) and all(
        isinstance(here, str) or isinstance(there, str) or here == there
        for here, there in zip(given, wanted, strict=True)
    )


def _unfit(task: LearningTask, labels: LabelFacts, output: Sequence[Dimension]) -> WinnowError:
    message = (
        f"A row of the field {LABEL!r} has the shape {list(labels.shape)}; for {task} the model's first output, "
        f"{list(output)}, takes {list(output[1:])}."
    )
    return refuse(DatasetMismatch, _DATASET, message)


def _is_whole(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))
