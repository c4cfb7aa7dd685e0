import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain.dataset import Preprocessing
from tests.compression.folders import png
from workers.compression.admission import admit
from workers.compression.dataset_inspection import inspect_dataset
from workers.compression.datasets import open_tables

ROWS = 700  # more than are read at once


def opened(path, columns, preprocessing=None, **options):
    pq.write_table(pa.table(columns), path, **options)
    admit(path, "parquet")
    return open_tables(path, "parquet", preprocessing)


def test_rows_are_sorted_by_the_split_they_name_and_texts_become_classes(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2, 3)).astype("float32")
    y, split = rng.choice(["owl", "cat", "dog"], ROWS), rng.choice(["train", "validation"], ROWS)
    columns = {"x": pa.array(x.tolist(), pa.list_(pa.list_(pa.float32()))), "y": y, "split": split}
    tables, names = opened(tmp_path / "d.parquet", columns, row_group_size=150)
    assert names == ("cat", "dog", "owl")
    for name, table in tables.items():
        np.testing.assert_array_equal(table["x"](), x[split == name])
        np.testing.assert_array_equal(table["y"](), np.searchsorted(names, y[split == name]))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint8", "bool"])
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed lists", "lists"])
def test_numbers_keep_their_type(tmp_path, dtype, fixed):
    x = np.random.default_rng(0).integers(0, 2, (ROWS, 4)).astype(dtype)
    flat = pa.array(x.reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, 4)
    lists = lists if fixed else lists.cast(pa.list_(flat.type))
    tables, names = opened(tmp_path / "d.parquet", {"x": lists, "y": np.arange(ROWS) % 7})
    assert names is None
    found = tables["train"]["x"]()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, x)
    assert tables["train"]["y"]().tolist() == (np.arange(ROWS) % 7).tolist()


@pytest.mark.parametrize("wrap", [bytes, lambda data: {"bytes": data, "path": "a.png"}], ids=["bytes", "with a path"])
def test_images_as_bytes_are_decoded_as_the_data_set_says(tmp_path, wrap):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 5, 5, 3), "uint8")
    columns = {"x": [wrap(png(each)) for each in pixels], "y": [0, 1] * 20}
    tables, _ = opened(tmp_path / "d.parquet", columns, Preprocessing(layout="hwc"))
    np.testing.assert_array_equal(tables["train"]["x"](), pixels / np.float32(255))


def test_what_an_inspection_finds(tmp_path):
    pq.write_table(pa.table({"ids": [[1, 2, 3]] * 9, "mask": [[1, 1, 0]] * 9, "y": [0.5] * 9}), tmp_path / "d.parquet")
    facts = inspect_dataset(tmp_path / "d.parquet", "parquet")
    assert [(field.name, field.dtype, field.shape) for field in facts.fields] == [
        ("ids", "int64", (3,)),
        ("mask", "int64", (3,)),
        ("y", "float64", ()),
    ]
    assert (facts.classes, facts.class_names, facts.splits["train"].samples) == (None, None, 9)
