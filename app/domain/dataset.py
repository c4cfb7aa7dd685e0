"""What is known of an uploaded data set once it has been inspected."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.exact import Exact
from app.domain.model import TensorSpec

DatasetFormat = Literal["npz", "safetensors", "zip", "tar", "parquet"]
FOLDERS: tuple[DatasetFormat, ...] = ("zip", "tar")
"""Archives of ``<split>/<class>/<image>``."""
WITH_IMAGES: tuple[DatasetFormat, ...] = (*FOLDERS, "parquet")
SPLITS = ("train", "calibration", "validation")


_Side = Annotated[int, Field(ge=1, le=4096)]
_Size = _Side | tuple[_Side, _Side]
_Channels = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)], ...], Field(min_length=1, max_length=3)
]


class Preprocessing(Exact):
    """How an image becomes a row, in this order: colour, resize, centre crop, values from 0 to 1, mean and std, layout.

    A single number for ``resize`` is the shorter side, and the other keeps its ratio; a pair is height and width.
    Resizing is bilinear with antialiasing, as in torchvision. Rows are float32.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    color: Literal["rgb", "gray"] = "rgb"
    resize: _Size | None = None
    center_crop: _Size | None = None
    mean: _Channels = (0.0,)
    std: _Channels = (1.0,)
    layout: Literal["chw", "hwc"] = "chw"

    @property
    def channels(self) -> int:
        return 3 if self.color == "rgb" else 1

    @model_validator(mode="after")
    def _fits_the_channels(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels}:
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels; give 1 or as many.")
        if min(self.std) < 1e-6:
            raise ValueError("std divides, so that its values must be positive.")
        return self


class SplitFacts(BaseModel):
    """The size of one split, in rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int


LABEL = "y"
"""The field that holds the labels."""


class LabelFacts(BaseModel):
    """What ``y`` holds over all splits; ``shape`` is of one row.

    ``classes`` is the highest integer plus one, null of other dtypes; ``binary`` tells that all values are 0 or 1,
    ``ignored`` that some are −100, which neither teach nor judge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str
    shape: tuple[int, ...]
    classes: int | None
    binary: bool = False
    ignored: bool = False

    @property
    def whole(self) -> bool:
        """Whether the labels are integers."""
        return self.dtype.startswith(("int", "uint"))


class DatasetFacts(BaseModel):
    """The findings of an inspection; the shapes of ``fields`` are of one row.

    ``classes`` is the highest label plus one where ``y`` holds class indices, else null; ``labels`` is null where there
    is no ``y``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: DatasetFormat
    splits: dict[str, SplitFacts]
    fields: tuple[TensorSpec, ...]
    classes: int | None
    labels: LabelFacts | None = None
    class_names: tuple[str, ...] | None = None
    """The names of the classes in the order of their indices, where the data set has names."""

    @model_validator(mode="before")
    @classmethod
    def _describe_indices(cls, given: Any) -> Any:
        """Read facts that were found when labels could be nothing but one class index a row."""
        if isinstance(given, dict) and given.get("classes") is not None and given.get("labels") is None:
            labels = {"dtype": "int64", "shape": (), "classes": given["classes"]}
            return given | {"labels": labels}
        return given
