"""``.parquet`` files: a column a field, one that names the split, and images as a column of bytes.

Numbers are rows of shape [], lists of equal lengths add dimensions. Labels that are texts become class indices.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from app.domain.dataset import LABEL, SPLITS, Preprocessing
from app.domain.errors import CorruptFile, InvalidDataset, UnsafeFile
from workers.compression.admission.images import MAX_IMAGE_BYTES
from workers.compression.admission.parquet import MAX_FOOTER_BYTES
from workers.compression.formats.images import MOST_CLASSES, in_parallel
from workers.compression.formats.rows import Reader, RowFiles

SPLIT = "split"
"""The column that says where a row belongs; without it, every row is one of train."""
_ROWS = 256
_MOST_COLUMNS = 1000
_MOST_VALUES = 1 << 24
_BATCH_VALUES = 1 << 22
_LONGEST_NAME = 200
_DEPTH = 8
_BUFFER_BYTES = 1 << 20
_HOW = "Write it with pyarrow.parquet.write_table."

Array = NDArray[Any]


def open_parquet(path: Path, preprocessing: Preprocessing) -> tuple[dict[str, Reader], tuple[str, ...] | None]:
    """Decode a file; give a reader for each tensor, and the classes' names where labels are texts.

    Raises InvalidDataset, CorruptFile or UnsafeFile naming the column.
    """
    with RowFiles(path) as files, _opened(path) as file:
        schema = file.schema_arrow
        _check(file, schema)
        classes = _class_names(file) if LABEL in schema.names and _is_text(schema.field(LABEL).type) else None
        decoders = {field.name: _decoder(field, classes, preprocessing) for field in schema if field.name != SPLIT}
        total, seen = file.metadata.num_rows, 0
        for batch in _batches(file):
            columns = {name: decode(batch.column(name), seen) for name, decode in decoders.items()}
            if seen == 0:
                row_bytes = sum(column[:1].nbytes for column in columns.values())
                files.check_room(total, row_bytes)
            for split, mask in _splits(batch, seen):
                for name, column in columns.items():
                    files.write(f"{split}.{name}", column[mask])
            seen += batch.num_rows
    if seen != total:
        raise CorruptFile(f"the file's footer tells of {total} rows, and it holds {seen}", hint=_HOW)
    return files.readers(), classes


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    # The pools of its own reserve more address space than a job may have.
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        with pq.ParquetFile(
            path,
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            thrift_string_size_limit=MAX_FOOTER_BYTES,
            thrift_container_size_limit=1_000_000,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        ) as file:
            yield file
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CorruptFile(f"the file cannot be read: {str(error).partition(chr(10))[0]}", hint=_HOW) from error


def _batches(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read few rows at a time, and fewer where they are long."""
    rows = max(1, min(_ROWS, _BATCH_VALUES // _values_a_row(file)))
    for batch in file.iter_batches(rows, columns=columns, use_threads=False):
        if batch.num_rows:
            yield batch


def _check(file: pq.ParquetFile, schema: pa.Schema) -> None:
    """Look at what the footer says before anything behind it is read."""
    metadata = file.metadata
    if not metadata.num_rows:
        raise InvalidDataset("the file holds no rows")
    if not 0 < len(schema) <= _MOST_COLUMNS or metadata.num_columns > _MOST_COLUMNS:
        raise InvalidDataset(f"the file holds {metadata.num_columns} columns; 1 to {_MOST_COLUMNS} are read")
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise UnsafeFile(f"the file holds the column {twice[0]!r} more than once")
    odd = [name for name in schema.names if not name or not name.isprintable() or {"/", "\\", "\0"} & set(name)]
    odd += [name for name in schema.names if len(name) > _LONGEST_NAME or name in {".", ".."}]
    if odd:
        raise UnsafeFile(f"the file holds a column of the name {odd[0][:80]!r}")
    if SPLIT in schema.names and not _is_text(schema.field(SPLIT).type):
        raise InvalidDataset(f"the column {SPLIT!r} holds {schema.field(SPLIT).type}; it names {', '.join(SPLITS)}")


def _values_a_row(file: pq.ParquetFile) -> int:
    """Tell the most values of all columns together that the rows of a group have on average, by the footer."""
    most = 1
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        values = 0
        for place in range(group.num_columns):
            chunk = group.column(place)
            found = chunk.num_values // max(1, group.num_rows)
            if found > _MOST_VALUES:
                raise UnsafeFile(
                    f"the column {chunk.path_in_schema!r} has {found} values a row; at most {_MOST_VALUES} are read"
                )
            values += found
        most = max(most, values)
    return most


def _class_names(file: pq.ParquetFile) -> tuple[str, ...]:
    """Read all labels, which are texts; give each once, sorted."""
    found: set[str] = set()
    for batch in _batches(file, [LABEL]):
        found.update(_texts(batch.column(0), LABEL, 0).unique().to_pylist())
        if len(found) > MOST_CLASSES:
            raise InvalidDataset(f"the column {LABEL!r} holds more than {MOST_CLASSES} different texts")
    long = [name for name in found if len(name) > _LONGEST_NAME]
    if long:
        raise InvalidDataset(f"the label {long[0][:40]!r}… has more than {_LONGEST_NAME} characters")
    return tuple(sorted(found))


def _splits(batch: pa.RecordBatch, start: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if SPLIT not in batch.schema.names:
        yield "train", np.ones(batch.num_rows, dtype=bool)
        return
    names = _texts(batch.column(SPLIT), SPLIT, start)
    for split in names.unique().to_pylist():
        if split not in SPLITS:
            raise InvalidDataset(f"the column {SPLIT!r} holds {split[:40]!r}; splits are {', '.join(SPLITS)}")
        yield split, pc.equal(names, split).to_numpy(zero_copy_only=False)


def _decoder(
    field: pa.Field, classes: tuple[str, ...] | None, preprocessing: Preprocessing
) -> Callable[[pa.Array, int], Array]:
    """Choose how a column becomes rows, by its type."""
    name, kind = field.name, field.type
    if name == LABEL and classes is not None:
        values = pa.array(classes, pa.string())
        return lambda column, start: _plain(pc.index_in(_texts(column, name, start), values)).astype(np.int64)
    if _holds_bytes(kind):
        return lambda column, start: _images(column, name, start, preprocessing)
    inner, depth = kind, 0
    while _is_list(inner) and depth < _DEPTH:
        inner, depth = inner.value_type, depth + 1
    if not (pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner)):
        raise InvalidDataset(
            f"the column {name!r} holds {str(kind)[:80]}; read are numbers, lists of them, and images as bytes",
            hint=f"Labels go into the column {LABEL!r}; leave other columns out.",
        )
    return lambda column, start: _numbers(column, name, start)


def _numbers(column: pa.Array, name: str, start: int) -> Array:
    """Make an array of numbers, or of lists of them that are equally long."""
    _check_nulls(column, name, start)
    if not _is_list(column.type):
        return _plain(column)
    if pa.types.is_fixed_size_list(column.type):
        length = column.type.list_size
    else:
        lengths = pc.list_value_length(column)
        length = lengths[0].as_py()
        if not pc.all(pc.equal(lengths, length)).as_py():
            raise InvalidDataset(f"the lists of the column {name!r} differ in length, from row {start} on")
    if not length:
        raise InvalidDataset(f"the lists of the column {name!r} are empty, from row {start} on")
    values = _numbers(column.flatten(), name, start)
    return values.reshape(len(column), length, *values.shape[1:])


def _images(column: pa.Array, name: str, start: int, preprocessing: Preprocessing) -> Array:
    if pa.types.is_struct(column.type):
        _check_nulls(column, name, start)
        column = column.field("bytes")
    _check_nulls(column, name, start)

    def members() -> Iterator[tuple[str, bytes]]:
        for row, value in enumerate(column, start):
            data = value.as_py()
            if len(data) > MAX_IMAGE_BYTES:
                raise UnsafeFile(f"{name!r} in row {row} has {len(data)} bytes; at most {MAX_IMAGE_BYTES} are read")
            yield f"{name} in row {row}", data

    rows: list[Array] = []
    for place, row in in_parallel(members(), preprocessing):
        if rows and row.shape != rows[0].shape:
            raise InvalidDataset(
                f"the image {place!r} becomes a row of shape {list(row.shape)}, others of {list(rows[0].shape)}",
                hint='Give "resize" as a pair, or "resize" and "center_crop".',
            )
        rows.append(row)
    return np.stack(rows)


def _texts(column: pa.Array, name: str, start: int) -> pa.Array:
    _check_nulls(column, name, start)
    return column.cast(pa.string())


def _plain(column: pa.Array) -> Array:
    return column.to_numpy(zero_copy_only=False)


def _check_nulls(column: pa.Array, name: str, start: int) -> None:
    if column.null_count:
        row = int(np.flatnonzero(_plain(column.is_null()))[0])
        raise InvalidDataset(f"the column {name!r} lacks a value, first about row {start + row}")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    """Tell whether a column holds files: their bytes, or the pair of bytes and path that others write."""
    if pa.types.is_struct(kind):
        names = [kind.field(place).name for place in range(kind.num_fields)]
        return "bytes" in names and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
