"""Which rows of train an update sees, and which choose the epoch."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import DatasetMismatch
from app.domain.learning_task import IGNORED, LearningTask
from workers.compression.step import Context
from workers.compression.training.criterion import Rows

HELD_OUT_SHARE = 0.1
HELD_OUT_ROWS = 5000
OF_PARTS = frozenset({LearningTask.TOKEN_CLASSIFICATION, LearningTask.LANGUAGE_MODELLING, LearningTask.SEGMENTATION})
"""Tasks with labels of the parts of a row, any of which may be ignored."""
_READ_ROWS = 4096


def split_rows(count: int, seed: int, counting: NDArray[np.bool_] | None = None) -> tuple[Rows, Rows]:
    """Part the rows of train into those to fit and those held out to choose the epoch by.

    ``counting`` tells of each whether any label of it counts; both parts have rows of which one does. Raises
    DatasetMismatch where there are too few.
    """
    held = min(max(1, round(count * HELD_OUT_SHARE)), HELD_OUT_ROWS)
    if count - held < 2:
        raise DatasetMismatch(f"the data set has {count} train rows, too few to train with")
    order = np.random.default_rng(seed).permutation(count)
    if counting is not None and not (counting[order[:held]].any() and counting[order[held:]].any()):
        order = _spread(order, counting, held)
    return np.sort(order[held:]), np.sort(order[:held])


def _spread(order: Rows, counting: NDArray[np.bool_], held: int) -> Rows:
    """Put a fair share of the rows that count in front, and the others of them at the end."""
    rows = order[counting[order]]
    if len(rows) < 2:
        raise DatasetMismatch(
            f"{len(rows)} of the {len(order)} train rows has a label that counts; one to train on and one to choose the"
            " epoch by are needed",
            hint=f"Label more rows: {IGNORED} hides what it stands on.",
        )
    front = min(max(1, round(len(rows) * HELD_OUT_SHARE)), held, len(rows) - 1)
    return np.concatenate([rows[:front], order[~counting[order]], rows[front:]])


def counting_rows(context: Context) -> NDArray[np.bool_] | None:
    """Tell which rows of train have a label that counts; None where all labels do."""
    if context.task.name not in OF_PARTS:
        return None
    count = context.data.rows("train")
    found = np.zeros(count, bool)
    for start in range(0, count, _READ_ROWS):
        rows = np.arange(start, min(start + _READ_ROWS, count))
        labels = context.data.labels("train", rows)
        found[rows] = (labels != IGNORED).reshape(len(rows), -1).any(axis=1)
    return found


def shuffled(rows: Rows, size: int, seed: int, epoch: int) -> Iterator[Rows]:
    """Cut an epoch's order into full batches; what is left over waits for another epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]
