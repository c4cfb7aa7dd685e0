"""What an analysis finds: how a metric suffers as more and more of each group goes."""

from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from app.domain.learning_task import Metric

SENSITIVITY_FILE = "sensitivity.json"
"""The artifact that holds a :class:`SensitivityTable`."""


# Tables that were kept when accuracy was the only metric call it so.
_VALUE = AliasChoices("value", "accuracy")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


class Measurement(_Part):
    """The network without the least important ``removed`` of one group; ``value`` and ``drop`` are of the metric.

    ``loss`` is null where it is not finite.
    """

    amount: float = Field(gt=0, le=1)
    removed: int = Field(ge=1)
    value: float = Field(validation_alias=_VALUE)
    drop: float
    loss: float | None


class GroupSensitivity(_Part):
    """One group, of ``size`` channels (each with all that is coupled to it) or weights; measurements rise by amount."""

    group: str
    layers: tuple[str, ...] = Field(min_length=1)
    size: int = Field(ge=1)
    measurements: tuple[Measurement, ...]


class SensitivityTable(_Part):
    """All groups; ``value`` of the metric and ``loss`` are those of the whole network on ``rows`` rows of ``split``.

    ``complete`` is false where time ran out: then groups have fewer measurements, and ``unmeasured`` names those
    that have none.
    """

    granularity: str
    criterion: str
    metric: Metric = "accuracy"
    split: Literal["train", "calibration"]
    rows: int = Field(ge=1)
    value: float = Field(validation_alias=_VALUE)
    loss: float | None
    complete: bool
    seconds: float
    groups: tuple[GroupSensitivity, ...] = Field(min_length=1)
    unmeasured: tuple[str, ...]
