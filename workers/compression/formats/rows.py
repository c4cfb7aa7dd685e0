"""Rows that are decoded one after the other into files beside the data set, to be mapped into memory."""

import math
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import InvalidDataset

Reader = Callable[[], NDArray[Any]]


def rows_folder(path: Path) -> Path:
    """Name the folder that the rows of a file are decoded into."""
    return path.with_name(f"{path.name}.rows")


class RowFiles:
    """A file for each split and field, in a folder of its own beside ``path``."""

    def __init__(self, path: Path) -> None:
        self._folder = rows_folder(path)
        self._folder.mkdir()
        self._files: dict[str, tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]] = {}
        self._rows: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        for file, _, _ in self._files.values():
            file.close()

    def check_room(self, rows: int, row_bytes: int) -> None:
        """Raise InvalidDataset where so much has no room in the folder, or in one file of this process."""
        most = shutil.disk_usage(self._folder).free
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        most = most if limit == resource.RLIM_INFINITY else min(most, limit)
        if rows * row_bytes > most:
            raise InvalidDataset(
                f"{rows} rows of {row_bytes} bytes each have {rows * row_bytes} bytes when decoded;"
                f" there is room for {most}",
                hint="Resize the images, or give fewer rows.",
            )

    def write(self, name: str, rows: NDArray[Any], at: int | None = None) -> None:
        """Write rows behind the last, or over those from a row on. All of a name have one dtype and one shape."""
        if name not in self._files:
            self._files[name] = ((self._folder / name).open("wb"), rows.dtype, rows.shape[1:])
            self._rows[name] = 0
        file, dtype, shape = self._files[name]
        if (rows.dtype, rows.shape[1:]) != (dtype, shape):
            raise InvalidDataset(
                f"{name} holds rows of {dtype.name} of shape {list(shape)},"
                f" and others of {rows.dtype.name} of shape {list(rows.shape[1:])}"
            )
        row_bytes = dtype.itemsize * math.prod(shape)
        first = self._rows[name] if at is None else at
        file.seek(first * row_bytes, os.SEEK_SET)
        file.write(np.ascontiguousarray(rows).data if rows.size else b"")
        self._rows[name] = max(self._rows[name], first + len(rows))

    def readers(self) -> dict[str, Reader]:
        """Give a way to map each file, once the writing has ended."""
        return {name: self._reader(name) for name in self._files}

    def _reader(self, name: str) -> Reader:
        _, dtype, shape = self._files[name]
        whole = (self._rows[name], *shape)
        if 0 in whole:
            return lambda: np.empty(whole, dtype)
        return lambda: np.memmap(self._folder / name, dtype, "r", 0, whole)
