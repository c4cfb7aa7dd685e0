"""Labels: what a data set's ``y`` holds, and what of it each task learns from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from app.domain.compatibility.task import mask_input, token_input
from app.domain.dataset import LabelFacts
from app.domain.errors import InvalidLabels
from app.domain.learning_task import IGNORED, LearningTask
from app.domain.model import Signature

MOST_CLASSES = 1_000_000
_CHUNK_ROWS = 4096
_FLOATS = frozenset({LearningTask.MULTILABEL, LearningTask.REGRESSION, LearningTask.EMBEDDING})
_OF_POSITIONS = frozenset({LearningTask.TOKEN_CLASSIFICATION, LearningTask.LANGUAGE_MODELLING})

Array = NDArray[Any]


@dataclass(frozen=True)
class Labelling:
    """How a row's labels come about; ``mask`` and ``tokens`` are places among the network's inputs.

    ``tokens`` is the input that is its own label, one position on, where a language model learns without ``y``.
    """

    task: LearningTask = LearningTask.CLASSIFICATION
    mask: int | None = None
    tokens: int | None = None

    @classmethod
    def of(cls, task: LearningTask, labels: LabelFacts | None, signature: Signature) -> Self:
        if task not in _OF_POSITIONS:
            return cls(task)
        mask, tokens = mask_input(signature), token_input(signature)
        place = {spec.name: number for number, spec in enumerate(signature.inputs)}
        shifted = tokens if task is LearningTask.LANGUAGE_MODELLING and labels is None else None
        return cls(task, *(None if spec is None else place[spec.name] for spec in (mask, shifted)))

    def label(self, inputs: tuple[Array, ...], given: Array | None) -> Array | None:
        """Give the labels of rows from their inputs and their ``y``; None where they have none."""
        if self.tokens is not None:
            tokens = inputs[self.tokens]
            following = np.full_like(tokens, IGNORED, np.int64)
            following[:, :-1] = tokens[:, 1:]
            return self.hide(inputs, following)
        if given is None or self.task is LearningTask.EMBEDDING:
            return None
        dtype = np.float32 if self.task in _FLOATS else np.int64
        return self.hide(inputs, np.asarray(given, dtype))

    def hide(self, inputs: tuple[Array, ...], labels: Array) -> Array:
        """Ignore the labels of positions where the mask is 0; what follows from one teaches nothing either."""
        if self.mask is None:
            return labels
        shown = np.asarray(inputs[self.mask]) != 0
        if self.tokens is not None:
            # The label of a position is the next token, which has to be shown as well.
            shown = shown & np.concatenate([shown[:, 1:], np.zeros_like(shown[:, :1])], axis=1)
        return np.where(shown, labels, IGNORED)


def describe_labels(splits: Mapping[str, Array]) -> LabelFacts | None:
    """Read all labels through, by the names of their tensors. Raises InvalidLabels naming the tensor and the row."""
    found = [_describe(name, labels) for name, labels in splits.items()]
    if not found:
        return None
    return found[0].model_copy(
        update={
            "classes": None if found[0].classes is None else max(facts.classes or 0 for facts in found),
            "binary": all(facts.binary for facts in found),
            "ignored": any(facts.ignored for facts in found),
        }
    )


def _describe(name: str, labels: Array) -> LabelFacts:
    kind, whole = labels.dtype.kind, labels.dtype.kind in "iu"
    if kind not in "iufb":
        raise InvalidLabels(f"{name} is of dtype {labels.dtype.name}; labels are integers, floats or bools")
    if (whole and labels.ndim > 3) or (kind == "b" and labels.ndim != 2):
        wanted = "one index a row, a position or a pixel" if whole else "0 or 1 for each class of a row"
        raise InvalidLabels(f"{name} has the shape {list(labels.shape)}; labels of {labels.dtype.name} are {wanted}")
    if 0 in labels.shape[1:]:
        raise InvalidLabels(f"{name} has the shape {list(labels.shape)}: a row has no label")
    highest, binary, ignored, counted = -1, True, False, 0
    for start in range(0, len(labels), _CHUNK_ROWS):
        rows = np.asarray(labels[start : start + _CHUNK_ROWS]).reshape(len(labels[start : start + _CHUNK_ROWS]), -1)
        hidden = (rows == IGNORED) & (whole and labels.ndim >= 2)
        _check_values(name, rows, hidden, start)
        binary = binary and bool(((rows == 0) | (rows == 1)).all())
        ignored = ignored or bool(hidden.any())
        counted += int((~hidden).sum())
        if whole and not hidden.all():
            highest = max(highest, int(rows[~hidden].max()))
    if not counted:
        raise InvalidLabels(f"every label of {name} is {IGNORED}, which is ignored", hint="Label some positions.")
    return LabelFacts(
        dtype=labels.dtype.name,
        shape=labels.shape[1:],
        classes=highest + 1 if whole else None,
        binary=binary,
        ignored=ignored,
    )


def _check_values(name: str, rows: Array, hidden: NDArray[np.bool_], start: int) -> None:
    """Raise InvalidLabels for the first row of (rows, labels) with a value that is no label."""
    if rows.dtype.kind == "f":
        wrong, said = ~np.isfinite(rows), "a label that is not finite"
    elif rows.dtype.kind in "iu":
        negative = (rows < 0) & ~hidden
        wrong = negative | (rows >= MOST_CLASSES)
        said = "the negative label {}" if negative.any() else f"the label {{}}; class indices stay below {MOST_CLASSES}"
        wrong = negative if negative.any() else wrong
    else:
        return
    if not wrong.any():
        return
    row = int(np.flatnonzero(wrong.any(axis=1))[0])
    value = rows[row][wrong[row]][0]
    hint = "Give targets of a regression as floats." if rows.dtype.kind in "iu" else None
    raise InvalidLabels(f"{name} holds {said.format(value)}, first in row {start + row}", hint=hint)
