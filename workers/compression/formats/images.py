"""Images: decoded by Pillow, prepared as the data set says, from archives of ``<split>/<class>/<image>``."""

import io
import math
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from app.domain.dataset import LABEL, SPLITS, Preprocessing
from app.domain.errors import CorruptFile, InvalidDataset
from workers.compression.admission.archive import Archive
from workers.compression.admission.images import LIMITS, MAX_IMAGE_BYTES, MAX_PIXELS
from workers.compression.formats.rows import Reader, RowFiles

MOST_CLASSES = 10_000
_LONGEST_NAME = 200
_AT_ONCE = 32
_KINDS = ("PNG", "JPEG")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
_BROKEN = (OSError, SyntaxError, ValueError, struct.error, zlib.error, IndexError, Image.DecompressionBombError)
_HOW = "Lay the archive out as <split>/<class>/<image>; splits are train, calibration and validation."

Row = NDArray[np.float32]
Members = Iterator[tuple[str, bytes]]


def open_images(path: Path, format_: str, preprocessing: Preprocessing) -> tuple[dict[str, Reader], tuple[str, ...]]:
    """Decode an archive that has been admitted; give a reader for each tensor, and the classes' names, sorted.

    Rows stand in the order of their names. Raises InvalidDataset or CorruptFile naming the member.
    """
    with RowFiles(path) as files, _opened(path, format_) as (names, read):
        places, classes = _arrange(names)
        shape: tuple[int, ...] | None = None
        first = ""
        for name, row in in_parallel(read(), preprocessing):
            if shape is None:
                shape, first = row.shape, name
                files.check_room(len(places), row.nbytes)
            if row.shape != shape:
                raise InvalidDataset(
                    f"the image {name!r} becomes a row of shape {list(row.shape)}, and {first!r} one of {list(shape)}",
                    hint='Give "resize" as a pair, or "resize" and "center_crop".',
                )
            split, at, label = places[name]
            files.write(f"{split}.x", row[np.newaxis], at)
            files.write(f"{split}.{LABEL}", np.array([label], np.int64), at)
    return files.readers(), classes


def _arrange(names: list[str]) -> tuple[dict[str, tuple[str, int, int]], tuple[str, ...]]:
    """Give each member's split, row and class, and the names of the classes."""
    if not names:
        raise InvalidDataset("the archive holds no image", hint=_HOW)
    for name in names:
        split, label, _ = name.split("/")
        if split not in SPLITS:
            raise InvalidDataset(f"{name!r} stands in {split!r}, which is no split", hint=_HOW)
        if len(label) > _LONGEST_NAME:
            raise InvalidDataset(f"the name of the class {label[:40]!r}… has more than {_LONGEST_NAME} characters")
    classes = tuple(sorted({name.split("/")[1] for name in names}))
    if len(classes) > MOST_CLASSES:
        raise InvalidDataset(f"the archive holds {len(classes)} classes; at most {MOST_CLASSES} are read")
    index = {label: number for number, label in enumerate(classes)}
    places, rows = {}, dict.fromkeys(SPLITS, 0)
    for name in sorted(names):
        split, label, _ = name.split("/")
        places[name] = split, rows[split], index[label]
        rows[split] += 1
    return places, classes


@contextmanager
def _opened(path: Path, format_: str) -> Iterator[tuple[list[str], Callable[[], Members]]]:
    if format_ == "zip":
        with Archive.open(path, LIMITS, folders=True) as archive:
            yield list(archive.members), lambda: ((it, archive.read(it, MAX_IMAGE_BYTES)) for it in archive.members)
        return
    with tarfile.open(path, "r:") as tar:
        members = [member for member in tar if member.isfile()]

        def read() -> Members:
            for member in members:
                content = tar.extractfile(member)
                yield member.name, content.read(MAX_IMAGE_BYTES) if content is not None else b""

        yield [member.name for member in members], read


def in_parallel(members: Members, preprocessing: Preprocessing) -> Iterator[tuple[str, Row]]:
    """Decode images on all cores that this process may use, in their order, few at a time."""
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        while taken := list(islice(members, _AT_ONCE)):
            rows = pool.map(lambda member: decode(member[0], member[1], preprocessing), taken)
            yield from zip((name for name, _ in taken), rows, strict=True)


def decode(name: str, data: bytes, preprocessing: Preprocessing) -> Row:
    """Make a row of an image. Raises CorruptFile or InvalidDataset naming it."""
    try:
        with Image.open(io.BytesIO(data), formats=_KINDS) as image:
            if image.mode not in _MODES:
                raise InvalidDataset(
                    f"the image {name!r} has the mode {image.mode}", hint="Save images with 8 bits a channel."
                )
            if image.width * image.height > MAX_PIXELS:
                raise InvalidDataset(f"the image {name!r} has more than {MAX_PIXELS} pixels")
            return _prepare(name, image.convert("RGB" if preprocessing.color == "rgb" else "L"), preprocessing)
    except UnidentifiedImageError as error:
        raise CorruptFile(f"the image {name!r} is no PNG or JPEG that can be read") from error
    except _BROKEN as error:
        raise CorruptFile(f"the image {name!r} cannot be decoded: {error}") from error


def _prepare(name: str, image: Any, preprocessing: Preprocessing) -> Row:
    if preprocessing.resize is not None:
        height, width = _target(image.height, image.width, preprocessing.resize)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if preprocessing.center_crop is not None:
        wanted = preprocessing.center_crop
        height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
        if height > image.height or width > image.width:
            raise InvalidDataset(
                f"the image {name!r} has {image.height} × {image.width} pixels, fewer than are to be cropped",
                hint='Give a "resize" first.',
            )
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)
        image = image.crop((left, top, left + width, top + height))
    values = np.asarray(image, np.float32).reshape(image.height, image.width, preprocessing.channels) / np.float32(255)
    values -= np.asarray(preprocessing.mean, np.float32)
    values /= np.asarray(preprocessing.std, np.float32)
    return values if preprocessing.layout == "hwc" else np.ascontiguousarray(values.transpose(2, 0, 1))


def _target(height: int, width: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    """Give the height and width to resize to: as torchvision does, the longer side is cut to a whole number."""
    if not isinstance(resize, int):
        return resize
    longer = max(1, math.floor(resize * max(height, width) / min(height, width)))
    if longer * resize > MAX_PIXELS:
        raise InvalidDataset(f"an image of {height} × {width} pixels would be resized beyond {MAX_PIXELS} pixels")
    return (resize, longer) if height <= width else (longer, resize)
