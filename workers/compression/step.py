"""What every step of a recipe is given, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from app.domain.job import EventType, Objective
from app.domain.sensitivity import SensitivityTable
from app.domain.task import EventMessage
from workers.compression.tasks import Classification, Task

if TYPE_CHECKING:
    from app.domain.recipe import Step
    from workers.compression.checkpoints import Checkpoints
    from workers.compression.datasets import Dataset
    from workers.compression.network import Network

Progress = Callable[[EventMessage], None]


@dataclass(frozen=True)
class Left:
    """How long a step will still train, in seconds, and how long an epoch takes."""

    seconds: float
    epoch_seconds: float


@dataclass(frozen=True)
class Context:
    """What a step works with: ``baseline`` is the uploaded network, never to be changed; ``folder`` is for scratch.

    Where there are ``checkpoints``, they are this step's own, and what takes long goes on from them.
    ``sensitivities`` are the tables of other jobs, by their ids, that steps ask for.
    """

    baseline: "Network"
    data: "Dataset"
    seed: int
    device: torch.device
    progress: Progress
    folder: Path
    task: Task = field(default_factory=Classification)
    """What the network learns, and is judged by."""
    checkpoints: "Checkpoints | None" = None
    objective: Objective | None = None
    """What the job may lose; a step that can trade for it does."""
    sensitivities: Mapping[str, SensitivityTable] = field(default_factory=dict)
    models: "Mapping[str, Network]" = field(default_factory=dict)
    """Other models that steps name, by their ids."""

    def fraction(self, value: float, message: str, left: Left | None = None) -> None:
        """Report the share of this step that is done, from 0 to 1, and what is left where that is known."""
        data: dict[str, Any] = {"fraction": value, "message": message}
        self.progress(EventMessage(type=EventType.PROGRESS, data=data if left is None else data | {"left": left}))

    def metric(self, name: str, step: int, value: float) -> None:
        self.progress(EventMessage(type=EventType.METRIC, data={"name": name, "step": step, "value": value}))

    def log(self, message: str, level: str = "info") -> None:
        self.progress(EventMessage(type=EventType.LOG, data={"level": level, "message": message}))


@dataclass(frozen=True)
class StepResult:
    """The network after a step and what the report should tell of it, in plain JSON values.

    ``earlier_seconds`` is what attempts that were killed had spent on the part that was not done again; ``spec`` is the
    step's own with what was left to the engine filled in, where anything was.
    """

    network: "Network"
    details: dict[str, Any] = field(default_factory=dict)
    earlier_seconds: float = 0.0
    spec: "Step | None" = None
    began: "Network | None" = None
    """What the step began with, where it put another network in the place of the one that it was given."""
