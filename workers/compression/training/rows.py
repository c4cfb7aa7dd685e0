"""Which rows of train an update sees, and which choose the epoch."""

from collections.abc import Iterator

import numpy as np

from app.domain.errors import DatasetMismatch
from workers.compression.training.criterion import Rows

HELD_OUT_SHARE = 0.1
HELD_OUT_ROWS = 5000


def split_rows(count: int, seed: int) -> tuple[Rows, Rows]:
    """Part the rows of train into those to fit and those held out to choose the epoch by."""
    held = min(max(1, round(count * HELD_OUT_SHARE)), HELD_OUT_ROWS)
    if count - held < 2:
        raise DatasetMismatch(f"the data set has {count} train rows, too few to train with")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def shuffled(rows: Rows, size: int, seed: int, epoch: int) -> Iterator[Rows]:
    """Cut an epoch's order into full batches; what is left over waits for another epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]
