import io
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from app.domain.errors import (
    CorruptFile,
    DatasetMismatch,
    InvalidDataset,
    InvalidLabels,
    LabelsOutOfRange,
    UnsafeFile,
    WinnowError,
)
from app.domain.model import Signature, TensorSpec
from workers.compression.dataset_inspection import inspect_dataset
from workers.compression.datasets import load_dataset
from workers.compression.formats.npz import open_npz

ROWS = 40


def signature(shape=(3,), dtype="float32", classes=4, name="image"):
    return Signature(
        inputs=(TensorSpec(name=name, dtype=dtype, shape=("batch", *shape)),),
        outputs=(TensorSpec(name="output", dtype="float32", shape=("batch", classes)),),
    )


def arrays(**splits):
    """Rows whose first value is their number, counted over all splits."""
    result, start = {}, 0
    for split, rows in (splits or {"train": ROWS, "validation": 10}).items():
        x = np.zeros((rows, 3), np.float32)
        x[:, 0] = np.arange(start, start + rows)
        result |= {f"{split}.x": x, f"{split}.y": np.arange(rows) % 4}
        start += rows
    return result


def write(path, content, format_="npz"):
    if format_ == "npz":
        np.savez(path, **content)
    else:
        save_file({name: np.ascontiguousarray(value) for name, value in content.items()}, path)
    return path


def firsts(data, split):
    return [int(value) for (x,), _ in data.batches(split, 7) for value in x[:, 0]]


@pytest.mark.parametrize("format_", ["npz", "safetensors"])
def test_rows_come_in_order_from_memory_maps(tmp_path, format_):
    data = load_dataset(write(tmp_path / "d.npz", arrays(), format_), format_, signature(), seed=0)
    assert isinstance(data.splits["train"].inputs[0], np.memmap)
    assert firsts(data, "train") == list(range(ROWS))
    inputs, labels = next(data.batches("validation", 3))
    assert inputs[0].dtype is torch.float32
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("order", ["C", "F"])
def test_compressed_and_fortran_members_read_the_same(tmp_path, order):
    content = {name: np.asarray(value, order=order) for name, value in arrays().items()}
    np.savez_compressed(tmp_path / "packed.npz", **content)
    np.savez(tmp_path / "stored.npz", **content)
    for name in ("packed.npz", "stored.npz"):
        found = open_npz(tmp_path / name)
        assert all(np.array_equal(found[key](), value) for key, value in content.items())


def test_missing_splits_are_cut_by_the_seed(tmp_path):
    path = write(tmp_path / "d.npz", arrays(train=ROWS))
    one, same, other = (load_dataset(path, "npz", signature(), seed=seed) for seed in (1, 1, 2))
    assert one.rows("validation") == ROWS // 5
    assert firsts(one, "validation") == firsts(same, "validation") != firsts(other, "validation")
    assert firsts(one, "calibration") == firsts(same, "calibration")
    train, validation, calibration = (set(firsts(one, split)) for split in ("train", "validation", "calibration"))
    assert train | validation == set(range(ROWS))
    assert not validation & (train | calibration)


def test_calibration_comes_from_train_and_never_from_validation(tmp_path):
    data = load_dataset(write(tmp_path / "d.npz", arrays()), "npz", signature(), seed=0)
    assert set(firsts(data, "calibration")) <= set(range(ROWS))
    alone = load_dataset(write(tmp_path / "v.npz", arrays(validation=9)), "npz", signature(), seed=0)
    assert alone.rows("calibration") == alone.rows("train") == 0
    with pytest.raises(DatasetMismatch, match="calibration"):
        alone.gather("calibration", np.arange(1))


def test_validation_rows_seen_elsewhere_are_counted_and_judge_nothing(tmp_path):
    content = arrays(train=ROWS, calibration=5, validation=10)
    content["validation.x"][2] = content["train.x"][7]
    content["validation.x"][3] = content["calibration.x"][0]
    data = load_dataset(write(tmp_path / "d.npz", content), "npz", signature(), seed=0)
    assert data.overlap == 2
    assert data.splits["validation"].order.tolist() == [0, 1, 4, 5, 6, 7, 8, 9]


def test_the_sign_of_a_zero_hides_no_leak(tmp_path):
    content = arrays(train=ROWS, validation=10)
    content["train.x"][7].flat[0] = 0.0
    content["validation.x"][2] = content["train.x"][7]
    content["validation.x"][2].flat[0] = -0.0
    data = load_dataset(write(tmp_path / "d.npz", content), "npz", signature(), seed=0)
    assert data.overlap == 1


def test_validation_that_only_repeats_train_is_refused(tmp_path):
    content = arrays(train=ROWS, validation=10)
    content["validation.x"] = content["train.x"][:10].copy()
    with pytest.raises(DatasetMismatch, match="all 10 validation rows"):
        load_dataset(write(tmp_path / "d.npz", content), "npz", signature(), seed=0)


def test_batches_hold_every_row_once_in_order(tmp_path):
    data = load_dataset(write(tmp_path / "d.npz", arrays()), "npz", signature(), seed=0)
    assert [int(value) for (x,), _ in data.batches("train", 7) for value in x[:, 0]] == list(range(ROWS))


@pytest.mark.parametrize(
    ("fitting", "error"),
    [
        (signature(shape=(4,)), DatasetMismatch),
        (signature(shape=(3, 1)), DatasetMismatch),
        (signature(dtype="int64"), DatasetMismatch),
        (signature(classes=3), LabelsOutOfRange),
    ],
)
def test_a_data_set_that_does_not_fit_the_network_is_refused(tmp_path, fitting, error):
    with pytest.raises(error):
        load_dataset(write(tmp_path / "d.npz", arrays()), "npz", fitting, seed=0)


def test_a_field_that_is_no_input_is_refused(tmp_path):
    content = {name.replace(".x", ".pixels"): value for name, value in arrays().items()}
    with pytest.raises(DatasetMismatch, match="pixels"):
        load_dataset(write(tmp_path / "d.npz", content), "npz", signature(), seed=0)
    assert load_dataset(tmp_path / "d.npz", "npz", signature(name="pixels"), seed=0).rows("train") == ROWS


@pytest.mark.parametrize("format_", ["npz", "safetensors"])
def test_inspection_tells_splits_fields_and_classes(tmp_path, format_):
    facts = inspect_dataset(write(tmp_path / "d.npz", arrays(), format_), format_)
    assert {split: found.samples for split, found in facts.splits.items()} == {"train": ROWS, "validation": 10}
    assert [(field.name, field.dtype, field.shape) for field in facts.fields] == [
        ("x", "float32", (3,)),
        ("y", "int64", ()),
    ]
    assert facts.classes == 4


def labelled(labels):
    """Put labels into train, and as many of the first as fit into validation."""
    return arrays() | {"train.y": labels, "validation.y": labels[:10]}


def without(*names):
    return {name: value for name, value in arrays().items() if name not in names}


@pytest.mark.parametrize(
    ("labels", "facts"),
    [
        (np.arange(ROWS) % 4, ("int64", (), 4, False, False)),
        (np.eye(4, dtype=int)[np.arange(ROWS) % 4], ("int64", (4,), 2, True, False)),
        (np.eye(4, dtype=bool)[np.arange(ROWS) % 4], ("bool", (4,), None, True, False)),
        (np.where(np.arange(ROWS)[:, None] % [3, 5] == 0, -100, 6), ("int64", (2,), 7, False, True)),
        (np.arange(ROWS) / 8, ("float64", (), None, False, False)),
        (np.ones((ROWS, 2, 3), np.float32), ("float32", (2, 3), None, True, False)),
        (None, None),
    ],
)
def test_inspection_tells_what_labels_there_are(tmp_path, labels, facts):
    content = without("train.y", "validation.y") if labels is None else labelled(labels)
    found = inspect_dataset(write(tmp_path / "d.npz", content), "npz")
    told = found.labels and (
        found.labels.dtype, found.labels.shape, found.labels.classes, found.labels.binary, found.labels.ignored
    )  # fmt: skip
    assert told == facts
    assert found.classes == (facts and facts[2])


NAN = np.full((ROWS, 3), np.nan, np.float32)
FAULTS = {
    "no split to judge by": ({"calibration.x": np.zeros((3, 3), np.float32)}, InvalidDataset, "neither"),
    "unknown split": (arrays() | {"test.x": np.zeros(3)}, InvalidDataset, "test.x"),
    "no split at all": ({"x": np.zeros(3)}, InvalidDataset, "'x'"),
    "unequal rows": (arrays() | {"train.y": np.zeros(3, np.int64)}, InvalidDataset, "train.y 3"),
    "empty split": (arrays(train=0, validation=3), InvalidDataset, "train"),
    "labels in one split alone": (without("validation.y"), InvalidDataset, "validation.y"),
    "labels for calibration alone": (
        without("train.y", "validation.y")
        | {"calibration.x": np.ones((3, 3), np.float32), "calibration.y": np.arange(3)},
        InvalidDataset,
        "train.y",
    ),
    "labels alone": (arrays() | {"calibration.y": np.zeros(3, np.int64)}, InvalidDataset, "calibration"),
    "not numeric": (arrays() | {"train.x": np.array(["a"] * ROWS)}, InvalidDataset, "train.x"),
    "complex": (arrays() | {"train.x": np.zeros((ROWS, 3), np.complex64)}, InvalidDataset, "train.x"),
    "single value": (arrays() | {"train.x": np.float32(3)}, InvalidDataset, "train.x"),
    "other shape": (arrays() | {"train.x": np.zeros((ROWS, 4), np.float32)}, InvalidDataset, "validation.x"),
    "not finite": (arrays() | {"train.x": NAN}, InvalidDataset, "train.x"),
    "label that is not a number": (labelled(np.where(np.arange(ROWS) == 7, np.nan, 1.0)), InvalidLabels, "row 7"),
    "endless label": (labelled(np.where(np.arange(ROWS)[:, None] == [5, 9], -np.inf, 1.0)), InvalidLabels, "row 5"),
    "negative label": (labelled(np.where(np.arange(ROWS) == 3, -1, 1)), InvalidLabels, "label -1, first in row 3"),
    "ignored row": (labelled(np.where(np.arange(ROWS) == 4, -100, 1)), InvalidLabels, "label -100, first in row 4"),
    "negative token": (labelled(np.where(np.arange(ROWS)[:, None] == [6, 2], -2, -100)), InvalidLabels, "row 2"),
    "nothing but ignored tokens": (labelled(np.full((ROWS, 3), -100)), InvalidLabels, "train.y"),
    "labels in three dimensions": (labelled(np.zeros((ROWS, 2, 2, 2), int)), InvalidLabels, "train.y"),
    "one bool a row": (labelled(np.zeros(ROWS, bool)), InvalidLabels, "train.y"),
    "no label in a row": (labelled(np.zeros((ROWS, 0))), InvalidLabels, "train.y"),
    "labels of text": (labelled(np.array(["a"] * ROWS)), InvalidLabels, "train.y"),
    "label of an id, not of a class": (arrays() | {"train.y": np.full(ROWS, 2**62)}, InvalidLabels, "train.y"),
    "label above all integers": (
        arrays() | {"train.y": np.full(ROWS, 2**63 + 5, np.uint64), "validation.y": np.zeros(10, np.uint64)},
        InvalidLabels,
        "train.y",
    ),
    "a pickle": (arrays() | {"train.x": np.array([{}] * ROWS)}, UnsafeFile, "train.x"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_by_name(tmp_path, fault):
    content, error, named = FAULTS[fault]
    with pytest.raises(error, match=named.replace(".", r"\.")):
        inspect_dataset(write(tmp_path / "d.npz", content), "npz")


def test_a_flipped_byte_is_found(tmp_path):
    content = bytearray(write(tmp_path / "d.npz", arrays()).read_bytes())
    content[content.index(np.arange(ROWS, dtype=np.float32)[7].tobytes(), 200)] ^= 0xFF
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"train\.x"):
        inspect_dataset(tmp_path / "d.npz", "npz")


@pytest.mark.parametrize("format_", ["npz", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_a_corrupt_file(tmp_path, format_, share):
    path = write(tmp_path / "d.npz", arrays(), format_)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CorruptFile):
        inspect_dataset(path, format_)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", ["twice", "foreign", "short", "version"])
def test_archives_that_numpy_would_not_write_are_refused(tmp_path, make):
    stream = io.BytesIO()
    np.save(stream, np.zeros((3, 3), np.float32))
    content = stream.getvalue()
    members = {
        "twice": [("train.x.npy", content), ("train.x.npy", content)],
        "foreign": [("train.x.pkl", content)],
        "short": [("train.x.npy", content[:-4])],
        "version": [("train.x.npy", content.replace(b"NUMPY\x01", b"NUMPY\x07"))],
    }[make]
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    with pytest.raises(WinnowError, match=r"train\.x"):
        inspect_dataset(tmp_path / "d.npz", "npz")
