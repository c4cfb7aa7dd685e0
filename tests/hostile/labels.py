"""Data sets whose labels are of every wrong kind; rows of one feature each."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROWS = 6
LABELS: dict[str, np.ndarray] = {
    "nan": np.array([0, 1, np.nan, 0, 1, 2], "float32"),
    "infinite": np.array([0, 1, np.inf, 0, 1, 2], "float64"),
    "negative": np.array([0, 1, -1, 0, 1, 2]),
    "huge": np.array([0, 1, 2**62, 0, 1, 2]),
    "unsigned_huge": np.array([0, 1, 2**63 + 5, 0, 1, 2], "uint64"),
    "short": np.arange(ROWS - 1),
    "long": np.arange(ROWS + 1),
    "none": np.zeros(0, "int64"),
    "scalar": np.array(3),
    "text": np.array(list("abcdef")),
    "objects": np.array([0, 1, None, {}, [], "a"], dtype=object),
    "complex": np.ones(ROWS, "complex64"),
    "dates": np.zeros(ROWS, "datetime64[s]"),
}


def make_labels(folder: Path) -> Iterator[tuple[str, Path]]:
    for name, labels in LABELS.items():
        path = folder / f"labels_{name}.npz"
        np.savez(path, **{"train.x": np.ones((ROWS, 4), "float32"), "train.y": labels})
        yield "npz", path
