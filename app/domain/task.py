"""What passes between the supervisor and the child process that runs the engine.

The supervisor writes a :data:`Task` as ``task.json`` into a folder of its own, beside the
inputs, and starts ``python -m workers.compression FOLDER``. The child writes :data:`Message`
lines of JSON to the socket or pipe whose number stands in ``--messages-fd``, and files into ``FOLDER/out``.
Its last message is ``done`` or ``failure``; without either, it crashed.
All paths are relative to the folder.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.domain.dataset import DatasetFormat, Preprocessing
from app.domain.errors import Failure
from app.domain.job import EventType, JobSpec
from app.domain.model import ModelFormat

TASK_FILE = "task.json"
OUTPUT_FOLDER = "out"
FACTS_FILE = "facts.json"
"""Written by the two inspections into the output folder: ModelFacts or DatasetFacts."""
REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
CARD_FILE = "model-card.md"
CHECKPOINTS_FOLDER = "checkpoints"
"""What the child needs to go on where it was killed; the supervisor carries its files to the next attempt's folder."""
LOG_FILE = "job.log"
CHECKPOINT_FILE = "checkpoint.tar"
"""Artifacts of the supervisor's own: no child may announce one of these names."""


TURN_SECONDS = 900.0
"""For how long one job may have a host's measurements to itself: what took longer says so of itself."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InspectModel(_Part):
    kind: Literal["inspect_model"] = "inspect_model"
    path: str
    format: ModelFormat


class InspectDataset(_Part):
    kind: Literal["inspect_dataset"] = "inspect_dataset"
    path: str
    format: DatasetFormat
    preprocessing: Preprocessing | None = None


class Upload(_Part):
    """A file as its user uploaded and named it."""

    name: str
    sha256: str


class ModelFile(_Part):
    """A model as it lies in the folder."""

    path: str
    format: ModelFormat
    way: int | None = None
    """The way to read it that held in its inspection."""


class Compress(_Part):
    kind: Literal["compress"] = "compress"
    model_path: str
    model_format: ModelFormat
    model_way: int | None = None
    """The way to read it that held in its inspection."""
    dataset_path: str
    dataset_format: DatasetFormat
    preprocessing: Preprocessing | None = None
    job: JobSpec
    sensitivities: dict[str, str] = {}
    """For each job whose table a step takes, the path of that table."""
    model: Upload | None = None
    dataset: Upload | None = None
    models: dict[str, ModelFile] = {}
    """For each model that a step names beside the job's own, its file."""
    device: str = "cpu"
    threads: int = 2
    service_version: str = ""


Task = Annotated[InspectModel | InspectDataset | Compress, Field(discriminator="kind")]
TASK: TypeAdapter[Task] = TypeAdapter(Task)

ArtifactKind = Literal["model", "report", "benchmark", "log", "checkpoint"]


class EventMessage(_Part):
    """A stage, progress, metric or log event of the job."""

    type: Literal[EventType.STAGE, EventType.PROGRESS, EventType.METRIC, EventType.LOG]
    data: dict[str, Any]


class ArtifactMessage(_Part):
    """A file under ``out`` is complete. Sent early for candidates, so that a cancelled job keeps one."""

    type: Literal["artifact"] = "artifact"
    name: str
    kind: ArtifactKind
    format: str


class TurnMessage(_Part):
    """The child wants to be the only one that measures on this host, and waits until a byte comes back; or has done.

    Where its pipe is no socket, there is nobody to answer, and it measures at once.
    """

    type: Literal["turn"] = "turn"
    wanted: bool


class DoneMessage(_Part):
    type: Literal["done"] = "done"


class FailureMessage(_Part):
    """The engine gave up. Artifacts sent before, a report too, are kept."""

    type: Literal["failure"] = "failure"
    failure: Failure


Message = Annotated[
    EventMessage | ArtifactMessage | TurnMessage | DoneMessage | FailureMessage, Field(discriminator="type")
]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
