"""Findings and faults of an uploaded data set, every value of it read once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.dataset import LABEL, DatasetFacts, DatasetFormat, Preprocessing, SplitFacts
from app.domain.errors import InvalidDataset
from app.domain.model import TensorSpec
from workers.compression.datasets import Reader, Tables, labels_of, open_tables
from workers.compression.formats.npz import check_npz
from workers.compression.labels import describe_labels

_CHUNK_ROWS = 4096
_INPUT_DTYPES = frozenset(
    {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"},
)
# The header of a .safetensors holds no checksum, so there is nothing to compare.
_CHECKS: dict[DatasetFormat, Callable[[Path], None]] = {"npz": check_npz}


def inspect_dataset(path: Path, format_: DatasetFormat, preprocessing: Preprocessing | None = None) -> DatasetFacts:
    """Read a data set through. Raises InvalidDataset, InvalidLabels, CorruptFile or UnsafeFile naming the tensor."""
    tables, class_names = open_tables(path, format_, preprocessing)
    if format_ in _CHECKS:
        _CHECKS[format_](path)
    if not {"train", "validation"} & set(tables):
        raise InvalidDataset("the data set has neither train nor validation rows")
    _check_labelled(tables)
    splits = {split: SplitFacts(samples=_count_rows(split, table)) for split, table in tables.items()}
    fields = _common_fields(tables)
    for split, table in tables.items():
        for field in fields:
            if field.name != LABEL:
                _check_finite(f"{split}.{field.name}", table[field.name]())
    labels = describe_labels(labels_of(tables))
    if labels is not None and class_names is not None:
        # A class may have no row in any split that is left, and is one for all that.
        labels = labels.model_copy(update={"classes": len(class_names)})
    classes = None if labels is None else labels.classes
    return DatasetFacts(
        format=format_, splits=splits, fields=fields, classes=classes, labels=labels, class_names=class_names
    )


def _check_labelled(tables: Tables) -> None:
    """Raise InvalidDataset where some splits have labels and others, but for calibration, have none."""
    labelled = [split for split, table in tables.items() if LABEL in table]
    for split, table in tables.items():
        if labelled and LABEL not in table and split != "calibration":
            raise InvalidDataset(
                f"there is no {split}.{LABEL}, and {labelled[0]} has labels; every split but calibration needs them",
                hint="Leave all labels out where the network learns without any.",
            )


def _count_rows(split: str, table: dict[str, Reader]) -> int:
    """Count the rows that all fields of a split share."""
    if set(table) <= {LABEL}:
        raise InvalidDataset(f"the split {split} has labels and no inputs")
    counts: dict[str, int] = {}
    for field, reader in table.items():
        array = reader()
        if array.ndim == 0:
            raise InvalidDataset(f"{split}.{field} is a single value, not rows")
        counts[field] = len(array)
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{split}.{field} {count}" for field, count in sorted(counts.items()))
        raise InvalidDataset(f"the fields of {split} have unequal numbers of rows: {told}")
    rows = next(iter(counts.values()))
    if rows == 0:
        raise InvalidDataset(f"the split {split} is empty")
    return rows


def _common_fields(tables: Tables) -> tuple[TensorSpec, ...]:
    """Give the fields, which must be the same in every split, labels last."""
    seen: dict[str, tuple[str, TensorSpec]] = {}
    for split, table in tables.items():
        for field, reader in table.items():
            array = reader()
            if field != LABEL and array.dtype.name not in _INPUT_DTYPES:
                raise InvalidDataset(f"{split}.{field} is of dtype {array.dtype.name}, which no network takes")
            spec = TensorSpec(name=field, dtype=array.dtype.name, shape=array.shape[1:])
            first, known = seen.setdefault(field, (split, spec))
            if spec != known:
                raise InvalidDataset(
                    f"{split}.{field} holds {spec.dtype} rows of shape {list(spec.shape)},"
                    f" {first}.{field} {known.dtype} of shape {list(known.shape)}"
                )
    for split, table in tables.items():
        missing = set(seen) - set(table) - {LABEL}
        if missing:
            raise InvalidDataset(f"the split {split} lacks the field {min(missing)!r}, which others have")
    return tuple(spec for _, spec in sorted(seen.values(), key=lambda found: (found[1].name == LABEL, found[1].name)))


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind != "f":
        return
    for start in range(0, len(array), _CHUNK_ROWS):
        rows = np.isfinite(array[start : start + _CHUNK_ROWS]).reshape(len(array[start : start + _CHUNK_ROWS]), -1)
        if not rows.all():
            row = start + int(np.flatnonzero(~rows.all(axis=1))[0])
            raise InvalidDataset(f"{name} holds a value that is not finite, first in row {row}")
