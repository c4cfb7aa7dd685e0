import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from app.domain.dataset import Preprocessing
from app.domain.errors import CorruptFile, InvalidDataset
from tests.compression.folders import png, write_tar, write_zip
from workers.compression.admission import admit
from workers.compression.dataset_inspection import inspect_dataset
from workers.compression.datasets import open_tables
from workers.compression.formats.images import decode

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), "uint8")
WRITE = {"zip": write_zip, "tar": write_tar}


def row(pixels=PIXELS, kind="PNG", **steps):
    return decode("train/a/0.png", png(pixels, kind), Preprocessing.model_validate(steps))


def test_a_row_holds_the_pixels_from_0_to_1_channels_first():
    np.testing.assert_array_equal(row(), PIXELS.transpose(2, 0, 1) / np.float32(255))
    assert row().dtype == np.float32
    np.testing.assert_array_equal(row(layout="hwc"), row().transpose(1, 2, 0))


def test_mean_and_std_are_of_all_channels_or_of_each():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = (row() - np.float32(mean).reshape(3, 1, 1)) / np.float32(std).reshape(3, 1, 1)
    np.testing.assert_allclose(row(mean=mean, std=std), wanted, rtol=1e-6)
    np.testing.assert_allclose(row(mean=[0.5], std=[0.25]), (row() - 0.5) / 0.25, rtol=1e-6)


@pytest.mark.parametrize(("height", "width", "resize", "wanted"), [
    (6, 9, 4, (4, 6)), (9, 6, 4, (6, 4)), (5, 7, 3, (3, math.floor(3 * 7 / 5))), (6, 9, (5, 8), (5, 8)),
    (6, 6, 12, (12, 12)),
])  # fmt: skip
def test_resizing_keeps_the_ratio_or_gives_the_size_asked_for(height, width, resize, wanted):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), "uint8")
    found = row(pixels, resize=resize)
    assert found.shape == (3, *wanted)
    # torch's antialiased bilinear, by which torchvision resizes; Pillow rounds to 8 bits in between.
    reference = F.interpolate(torch.from_numpy(row(pixels))[None], wanted, mode="bilinear", antialias=True)[0]
    assert np.abs(found - reference.numpy()).max() < 1.5 / 255


def test_a_crop_is_of_the_centre():
    np.testing.assert_array_equal(row(center_crop=4), row()[:, 1:5, 2:6])
    np.testing.assert_array_equal(row(center_crop=(6, 2)), row()[:, :, 4:6])
    with pytest.raises(InvalidDataset, match=r"'train/a/0\.png' has 6 × 9 pixels"):
        row(center_crop=7)


def test_grey_and_colour_go_both_ways():
    grey = PIXELS[:, :, 0]
    np.testing.assert_array_equal(row(grey, color="gray"), grey[np.newaxis] / np.float32(255))
    assert (row(grey) == row(grey)[:1]).all()
    assert row(color="gray").shape == (1, 6, 9)
    with_alpha = np.dstack([PIXELS, np.full((6, 9), 255, "uint8")])
    np.testing.assert_array_equal(row(with_alpha), row())


def test_what_is_no_image_names_the_member():
    with pytest.raises(CorruptFile, match=r"'train/a/0\.png' is no PNG or JPEG"):
        decode("train/a/0.png", b"GIF89a", Preprocessing())
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG")
    with pytest.raises(CorruptFile, match=r"'train/a/0\.png' cannot be decoded"):
        decode("train/a/0.png", stream.getvalue()[:-50], Preprocessing())


@pytest.mark.parametrize("format_", WRITE)
def test_a_folder_becomes_splits_of_rows_with_classes_by_name(tmp_path, format_):
    rng = np.random.default_rng(2)
    names = ["train/dog/9.png", "train/cat/1.png", "train/dog/10.PNG", "validation/owl/1.png", "train/cat/0.jpg"]
    pixels = {name: rng.integers(0, 256, (5, 5, 3), "uint8") for name in names}
    path = tmp_path / f"d.{format_}"
    members = [(name, png(pixels[name], "JPEG" if name.endswith("jpg") else "PNG")) for name in names]
    WRITE[format_](path, members)
    admit(path, format_)
    facts = inspect_dataset(path, format_, Preprocessing())
    assert facts.class_names == ("cat", "dog", "owl")
    assert (facts.classes, facts.splits["train"].samples, facts.splits["validation"].samples) == (3, 4, 1)
    path.with_name(f"{path.name}.rows").rename(tmp_path / "inspected")
    tables, class_names = open_tables(path, format_)
    assert class_names == facts.class_names
    # Rows stand in the order of their names.
    assert tables["train"]["y"]().tolist() == [0, 0, 1, 1]
    assert tables["validation"]["y"]().tolist() == [2]
    x = tables["train"]["x"]()
    for place, name in ((1, "train/cat/1.png"), (2, "train/dog/10.PNG"), (3, "train/dog/9.png")):
        np.testing.assert_array_equal(x[place], row(pixels[name]))


def test_what_would_not_fit_on_the_disk_is_refused_before_it_is_written(tmp_path):
    import resource

    path = tmp_path / "d.zip"
    write_zip(path, [(f"train/a/{number}.png", png(PIXELS)) for number in range(50)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(InvalidDataset, match="50 rows of 648 bytes each have 32400 bytes when decoded"):
            open_tables(path, "zip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sum(file.stat().st_size for file in (tmp_path / "d.zip.rows").iterdir()) == 0


@pytest.mark.parametrize("steps", [
    {"mean": [0.1, 0.2]}, {"std": [0.0]}, {"resize": 0}, {"resize": [1, 2, 3]}, {"center_crop": 5000},
    {"layout": "NCHW"}, {"flip": True}, {"mean": [float("inf")]}, {"color": "gray", "mean": [0.1, 0.2, 0.3]},
])  # fmt: skip
def test_steps_that_make_no_sense(steps):
    with pytest.raises(ValueError, match="validation error"):
        Preprocessing.model_validate(steps)
