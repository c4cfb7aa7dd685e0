"""Data sets: the splits of a file as rows that are read when asked for.

A missing ``validation`` is a fifth of ``train``, drawn by the job's seed and taken out of it.
A missing ``calibration`` is what is left of ``train`` in an order drawn by the seed: its first
rows are a fair sample, and none of them is a row of ``validation``.
A validation row whose inputs also stand in ``train`` or ``calibration`` judges nothing: it is left out and counted.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.domain.compatibility.task import resolve_task
from app.domain.dataset import LABEL, SPLITS, DatasetFormat, Preprocessing
from app.domain.errors import DatasetMismatch, InvalidDataset
from app.domain.learning_task import LearningTask
from app.domain.model import Signature
from workers.compression.formats.images import open_images
from workers.compression.formats.npz import open_npz
from workers.compression.formats.parquet import open_parquet
from workers.compression.formats.safetensors import open_safetensors
from workers.compression.labels import Labelling, describe_labels

VALIDATION_SHARE = 0.2
_READ_ROWS = 1024

Reader = Callable[[], NDArray[Any]]
Tables = dict[str, dict[str, Reader]]
Batch = tuple[tuple[torch.Tensor, ...], torch.Tensor]

Opened = tuple[dict[str, Reader], tuple[str, ...] | None]
OPENERS: dict[DatasetFormat, Callable[[Path, Preprocessing], Opened]] = {
    "npz": lambda path, _: (open_npz(path), None),
    "safetensors": lambda path, _: (open_safetensors(path), None),
    "zip": lambda path, preprocessing: open_images(path, "zip", preprocessing),
    "tar": lambda path, preprocessing: open_images(path, "tar", preprocessing),
    "parquet": open_parquet,
}
"""What gives the tensors of a file, and the names of the classes where it has some."""


@dataclass(frozen=True)
class Split:
    """Arrays of one split; ``order`` lists the rows that belong to it."""

    inputs: tuple[NDArray[Any], ...]
    labels: NDArray[Any] | None
    order: NDArray[np.int64]

    def gather(self, rows: NDArray[np.int64], labelling: Labelling) -> Batch:
        """Read rows by their position in the split; labels are empty where the split has none."""
        picked = self.order[rows]
        inputs = tuple(array[picked] for array in self.inputs)
        labels = labelling.label(inputs, None if self.labels is None else self.labels[picked])
        found = torch.empty(0, dtype=torch.int64) if labels is None else _tensor(labels)
        return tuple(map(_tensor, inputs)), found


@dataclass(frozen=True)
class Dataset:
    """Rows by split, with the inputs in the order of the network's signature."""

    splits: Mapping[str, Split]
    dtypes: tuple[torch.dtype, ...]
    overlap: int = 0
    """Validation rows left out because they also stand in train or calibration."""
    labelling: Labelling = field(default_factory=Labelling)
    class_names: tuple[str, ...] | None = None

    @property
    def task(self) -> LearningTask:
        return self.labelling.task

    @property
    def row_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of a row's inputs, which all splits share."""
        return tuple(array.shape[1:] for array in next(iter(self.splits.values())).inputs)

    def rows(self, split: str) -> int:
        """Count the rows of a split; 0 where there is none."""
        return len(self.splits[split].order) if split in self.splits else 0

    def gather(self, split: str, rows: NDArray[np.int64]) -> Batch:
        """Read the named rows of a split, in that order. Raises DatasetMismatch where there is no such split."""
        if split not in self.splits:
            raise DatasetMismatch(f"the data set has no {split} rows, which this step needs")
        inputs, labels = self.splits[split].gather(rows, self.labelling)
        return tuple(value.to(dtype) for value, dtype in zip(inputs, self.dtypes, strict=True)), labels

    def batches(self, split: str, size: int) -> Iterator[Batch]:
        """Read a split in batches, in its order; the last may be short."""
        order = np.arange(self.rows(split))
        for start in range(0, len(order), size):
            yield self.gather(split, order[start : start + size])

    def labelled(self, split: str) -> bool:
        """Tell whether the rows of a split have labels."""
        found = self.splits.get(split)
        if found is None or self.task is LearningTask.EMBEDDING:
            return False
        return found.labels is not None or self.labelling.tokens is not None

    def labels(self, split: str, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Give the labels of rows, of all in order where none are named, as batches of the split have them.

        Raises DatasetMismatch where it has none.
        """
        if not self.labelled(split):
            raise DatasetMismatch(f"the data set has no {split}.{LABEL}")
        found = self.splits[split]
        order = found.order if rows is None else found.order[rows]
        inputs = tuple(array[order] if self._tells(place) else array for place, array in enumerate(found.inputs))
        labels = self.labelling.label(inputs, None if found.labels is None else found.labels[order])
        assert labels is not None
        return labels

    def _tells(self, place: int) -> bool:
        """Tell whether labels depend on this input; the others may be large."""
        return place in {self.labelling.mask, self.labelling.tokens}


def load_dataset(
    path: Path,
    format_: DatasetFormat,
    signature: Signature,
    seed: int,
    task: LearningTask | None = None,
    *,
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """Open a data set for a network; ``task`` is the one asked for, None where both tell it.

    Raises DatasetMismatch, LabelsOutOfRange, TaskMismatch or UnsupportedNetwork where they do not fit.
    """
    tables, class_names = open_tables(path, format_, preprocessing)
    splits = {name: _bind(name, table, signature) for name, table in tables.items()}
    dtypes = tuple(getattr(torch, spec.dtype) for spec in signature.inputs)
    kept, overlap = _without_leaks(_fill(splits, seed))
    facts = describe_labels(labels_of(tables))
    labelling = Labelling.of(resolve_task(task, facts, signature), facts, signature)
    return Dataset(kept, dtypes, overlap, labelling, class_names)


def labels_of(tables: Tables) -> dict[str, NDArray[Any]]:
    """Give the labels of each split that has some, by the names of their tensors."""
    return {f"{split}.{LABEL}": table[LABEL]() for split, table in tables.items() if LABEL in table}


def open_tables(
    path: Path, format_: DatasetFormat, preprocessing: Preprocessing | None = None
) -> tuple[Tables, tuple[str, ...] | None]:
    """Sort the tensors of a file by split and field; give the classes' names beside, where there are some.

    Raises InvalidDataset naming what has no place.
    """
    tables: Tables = {}
    tensors, class_names = OPENERS[format_](path, preprocessing or Preprocessing())
    for name, reader in tensors.items():
        split, dot, field = name.partition(".")
        if not dot or not field or split not in SPLITS:
            raise InvalidDataset(
                f"the tensor {name!r} belongs to no split",
                hint="Name tensors train.x, train.y, validation.x and so on.",
            )
        tables.setdefault(split, {})[field] = reader
    return tables, class_names


def _bind(split: str, table: dict[str, Reader], signature: Signature) -> Split:
    """Take the fields of a split in the order of the network's inputs."""
    fields = set(table) - {LABEL}
    names = [spec.name for spec in signature.inputs]
    if fields == {"x"} and len(names) == 1:
        names = ["x"]
    if fields != set(names):
        raise DatasetMismatch(f"{split} holds the fields {sorted(fields)}, the network takes {names}")
    arrays = tuple(table[name]() for name in names)
    for name, array, spec in zip(names, arrays, signature.inputs, strict=True):
        fits = array.ndim == len(spec.shape) and all(
            isinstance(wanted, str) or wanted == size
            for wanted, size in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            raise DatasetMismatch(
                f"rows of {split}.{name} have the shape {list(array.shape[1:])},"
                f" the network takes {list(spec.shape[1:])}"
            )
        both_float = array.dtype.kind == "f" and spec.dtype.startswith("float")
        if array.dtype.name != spec.dtype and not both_float:
            raise DatasetMismatch(f"{split}.{name} is {array.dtype.name}, the network takes {spec.dtype}")
    labels = table[LABEL]() if LABEL in table else None
    return Split(arrays, labels, np.arange(len(arrays[0])))


def _fill(splits: dict[str, Split], seed: int) -> dict[str, Split]:
    """Cut what is missing from train, as the module's head says."""
    filled = dict(splits)
    train = splits.get("train")
    if train is None:
        return filled
    shuffled = np.random.default_rng(seed).permutation(train.order)
    if "validation" not in filled:
        cut = max(1, round(len(shuffled) * VALIDATION_SHARE))
        filled["validation"] = Split(train.inputs, train.labels, np.sort(shuffled[:cut]))
        shuffled = shuffled[cut:]
        filled["train"] = Split(train.inputs, train.labels, np.sort(shuffled))
    if "calibration" not in filled:
        filled["calibration"] = Split(train.inputs, train.labels, shuffled)
    return filled


def _without_leaks(splits: dict[str, Split]) -> tuple[dict[str, Split], int]:
    """Leave out the validation rows that were trained or calibrated on; count them."""
    judge = splits.get("validation")
    if judge is None:
        return splits, 0
    seen = {digest for name in ("train", "calibration") if name in splits for digest in _digests(splits[name])}
    fresh = np.array([digest not in seen for digest in _digests(judge)], dtype=bool)
    if not fresh.any():
        raise DatasetMismatch(
            f"all {len(fresh)} validation rows also stand in train or calibration",
            hint="Judge on rows that the network never saw.",
        )
    kept = Split(judge.inputs, judge.labels, judge.order[fresh])
    return {**splits, "validation": kept}, int((~fresh).sum())


def _digests(split: Split) -> Iterator[bytes]:
    for start in range(0, len(split.order), _READ_ROWS):
        picked = split.order[start : start + _READ_ROWS]
        for row in zip(*(np.ascontiguousarray(array[picked]) for array in split.inputs), strict=True):
            digest = hashlib.blake2b(digest_size=16)
            for value in row:
                # −0.0 and 0.0 are one number and two patterns of bits.
                digest.update(np.ascontiguousarray(value + 0 if value.dtype.kind == "f" else value).tobytes())
            yield digest.digest()


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Copy rows into a tensor in the machine's byte order."""
    native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(native)
