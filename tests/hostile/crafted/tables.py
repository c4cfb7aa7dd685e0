"""Parquet files that claim what they do not hold, unpack to more than they are, or hold what no network takes."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.compression.folders import png
from tests.hostile.crafted.payload import Made


def make_tables(folder: Path) -> Iterator[Made]:
    rows = 8
    x = pa.array(np.arange(rows * 4, dtype="float32").reshape(rows, 4).tolist(), pa.list_(pa.float32()))
    good = {"x": x, "y": pa.array([0, 1] * 4)}
    image = png(np.zeros((8, 8, 3), "uint8"))
    tables = {
        "ragged": good | {"x": pa.array([[1.0] * (1 + row % 2) for row in range(rows)])},
        "empty_lists": good | {"x": pa.array([[]] * rows, pa.list_(pa.float32()))},
        "nulls": good | {"x": pa.array([None] * rows, pa.list_(pa.float32()))},
        "null_within": good | {"x": pa.array([[1.0, None]] * rows)},
        "null_label": good | {"y": pa.array([0, None] * 4)},
        "not_finite": good | {"x": pa.array([[1.0, np.nan]] * rows)},
        "texts": good | {"x": pa.array(["a"] * rows)},
        "dates": good | {"x": pa.array([0] * rows, pa.timestamp("s"))},
        "decimals": good | {"x": pa.array([1] * rows).cast(pa.decimal128(20))},
        "map": good | {"x": pa.array([[("a", 1)]] * rows, pa.map_(pa.string(), pa.int64()))},
        "deep": good | {"x": _nested(rows, 12)},
        "split": good | {"split": pa.array(["../train"] * rows)},
        "split_number": good | {"split": pa.array([1] * rows)},
        "name": {"../x": x, "y": good["y"]},
        "label_long": good | {"y": pa.array(["a" * 300] * rows)},
        "label_negative": good | {"y": pa.array([-1] * rows)},
        "labels_alone": {"y": good["y"]},
        "no_rows": {name: column[:0] for name, column in good.items()},
        "script": good | {"x": pa.array([b"#!/bin/sh\n"] * rows)},
        "gif": good | {"x": pa.array([b"GIF89a" + bytes(40)] * rows)},
        "image_missing": good | {"x": pa.array([{"bytes": image}] * 7 + [{"bytes": None}])},
    }
    for name, columns in tables.items():
        path = folder / f"table_{name}.parquet"
        pq.write_table(pa.table(columns), path)
        yield "parquet", path
    path = folder / "table_twice.parquet"
    pq.write_table(pa.Table.from_arrays([x, x], ["x", "x"]), path)
    yield "parquet", path
    path = folder / "table_bomb.parquet"
    pq.write_table(pa.table({"x": [np.zeros((1 << 24) + 1, "int8")]}), path)  # 20 kB that unpack to 64 MB in one row
    yield "parquet", path
    yield from _broken(folder, folder / "table_split.parquet")


def _nested(rows: int, depth: int) -> pa.Array:
    array = pa.array([1.0] * rows)
    for _ in range(depth):
        array = pa.FixedSizeListArray.from_arrays(array, 1)
    return array


def _broken(folder: Path, real: Path) -> Iterator[Made]:
    content = real.read_bytes()
    footer = struct.unpack("<I", content[-8:-4])[0]
    files = {
        "footer_long": content[:-8] + struct.pack("<I", 1 << 30) + b"PAR1",
        "footer_huge": content[:-8] + struct.pack("<I", len(content) - 8) + b"PAR1",
        "footer_none": content[:-8] + struct.pack("<I", 0) + b"PAR1",
        "footer_zeros": content[: -8 - footer] + bytes(footer) + content[-8:],
        "footer_ones": content[: -8 - footer] + b"\xff" * footer + content[-8:],
        "encrypted": content[:-4] + b"PARE",
        "pages_gone": b"PAR1" + content[-8 - footer :],
        "pages_zeros": b"PAR1" + bytes(len(content) - 12 - footer) + content[-8 - footer :],
        "ends_alone": b"PAR1PAR1",
        "pickle": b"\x80\x04" + content[2:],
    }
    for name, changed in files.items():
        path = folder / f"table_{name}.parquet"
        path.write_bytes(changed)
        yield "parquet", path
