"""The digits as files that people have: folders of images, and tables."""

import io
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NAMES = ("0 zero", "1 one", "2 two", "3 three", "4 four", "5 five", "6 six", "7 seven", "8 eight", "9 nine")


def png(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def images(splits):
    """Give the name and the bytes of each row of {split: (x, y)}, where x are levels from 0 to 1."""
    for split, (x, y) in splits.items():
        for row, (pixels, label) in enumerate(zip(x, y, strict=True)):
            yield f"{split}/{NAMES[label]}/{row:04d}.png", png(np.round(pixels[0] * 255).astype("uint8"))


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_table(path, splits, **options):
    """Write rows of {split: (x, y)} as nested lists, with labels as texts."""
    x = np.concatenate([x for x, _ in splits.values()])
    y = np.concatenate([y for _, y in splits.values()])
    names = np.concatenate([[split] * len(y) for split, (_, y) in splits.items()])
    values = pa.array(x.reshape(-1).astype("float32"))
    for length in x.shape[:0:-1]:
        values = pa.FixedSizeListArray.from_arrays(values, length)
    columns = {"x": values, "y": [NAMES[label] for label in y], "split": names}
    pq.write_table(pa.table(columns), path, **options)
