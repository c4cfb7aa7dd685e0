"""What an analysis finds: how a metric suffers as more and more of each group goes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SENSITIVITY_FILE = "sensitivity.json"
"""The artifact that holds a :class:`SensitivityTable`."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measurement(_Part):
    """The network without the least important ``removed`` of one group; ``drop`` is of accuracy.

    ``loss`` is null where it is not finite.
    """

    amount: float = Field(gt=0, le=1)
    removed: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)
    drop: float = Field(ge=-1, le=1)
    loss: float | None


class GroupSensitivity(_Part):
    """One group, of ``size`` channels (each with all that is coupled to it) or weights; measurements rise by amount."""

    group: str
    layers: tuple[str, ...] = Field(min_length=1)
    size: int = Field(ge=1)
    measurements: tuple[Measurement, ...]


class SensitivityTable(_Part):
    """All groups; ``accuracy`` and ``loss`` are those of the whole network on the same ``rows`` of ``split``.

    ``complete`` is false where time ran out: then groups have fewer measurements, and ``unmeasured`` names those
    that have none.
    """

    granularity: str
    criterion: str
    metric: Literal["accuracy"] = "accuracy"
    split: Literal["train", "calibration"]
    rows: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)
    loss: float | None
    complete: bool
    seconds: float
    groups: tuple[GroupSensitivity, ...] = Field(min_length=1)
    unmeasured: tuple[str, ...]
