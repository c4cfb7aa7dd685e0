"""What is known of an uploaded data set once it has been inspected."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from app.domain.model import TensorSpec

DatasetFormat = Literal["npz", "safetensors"]
SPLITS = ("train", "calibration", "validation")


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

    @model_validator(mode="before")
    @classmethod
    def _describe_indices(cls, given: Any) -> Any:
        """Read facts that were found when labels could be nothing but one class index a row."""
        if isinstance(given, dict) and given.get("classes") is not None and given.get("labels") is None:
            labels = {"dtype": "int64", "shape": (), "classes": given["classes"]}
            return given | {"labels": labels}
        return given
