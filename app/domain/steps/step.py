"""What every step of a recipe shares."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class StepSpec(BaseModel):
    """What all steps share: unknown fields are refused, and a spec never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trains: ClassVar[bool] = False
    """Whether every step of the method needs the training split and a trainable network."""

    @property
    def trained_epochs(self) -> int:
        """Give the epochs that this step trains for; more than 0 where it needs what :attr:`trains` speaks of."""
        return 0
