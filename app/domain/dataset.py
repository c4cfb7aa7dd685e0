"""What is known of an uploaded data set once it has been inspected."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.domain.model import TensorSpec

DatasetFormat = Literal["npz", "safetensors"]
SPLITS = ("train", "calibration", "validation")


class SplitFacts(BaseModel):
    """The size of one split, in rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int


class DatasetFacts(BaseModel):
    """The findings of an inspection; the shapes of ``fields`` are of one row.

    ``classes`` is the highest label plus one where ``y`` holds class indices, else null.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: DatasetFormat
    splits: dict[str, SplitFacts]
    fields: tuple[TensorSpec, ...]
    classes: int | None
