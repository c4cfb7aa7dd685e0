"""What the service keeps: models, data sets and the files that jobs left. Attributes are the API's own fields."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from winnow.downloading import Progress, download
from winnow.errors import Rejected
from winnow.transport import Transport

LONGEST_WAIT_SECONDS = 30


@dataclass(frozen=True)
class Record:
    """A JSON object whose known fields are attributes; ``raw`` has all of them, of a newer service too."""

    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, body: Mapping[str, Any], **more: Any) -> Self:
        values = {it.name: _parsed(it.name, body[it.name]) for it in fields(cls) if it.name in body}
        return cls(raw=body, **values, **more)


def _parsed(name: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if name.endswith("_at") and isinstance(value, str) else value


@dataclass(frozen=True)
class _Upload(Record):
    id: str
    name: str
    format: str
    state: str
    problem: Mapping[str, Any] | None
    size_bytes: int
    sha256: str
    created_at: datetime
    _transport: Transport = field(repr=False, compare=False)

    _noun = ""

    def refresh(self, **query: Any) -> Self:
        """Ask how it stands now; objects themselves never change."""
        return self.of(self._transport.get(f"{self._noun}/{self.id}", **query), _transport=self._transport)

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until the service has looked into the file. Raises Rejected, or TimeoutError after ``timeout`` s."""
        found = self
        for seconds in waits(timeout, f"{self.id} is still being looked into"):
            if found.state != "validating":
                break
            found = found.refresh(wait=seconds)
        if found.problem is not None:
            problem = found.problem
            raise Rejected(
                f"{self.name} was rejected: {problem['detail']}",
                code=problem["code"],
                hint=problem.get("hint"),
                object_id=self.id,
            )
        return found

    def download(self, filename: str | Path, *, progress: Progress | None = None) -> Path:
        """Fetch the file as it was uploaded; the format's ending is added where the name lacks one."""
        target = Path(filename)
        target = target if target.suffix else target.with_name(f"{target.name}.{self.format}")
        return download(self._transport, f"{self._noun}/{self.id}/content", target, self.sha256, progress=progress)

    def delete(self) -> None:
        self._transport.delete(f"{self._noun}/{self.id}")


@dataclass(frozen=True)
class Model(_Upload):
    """``signature``, ``parameters``, ``macs`` and ``trainable`` are null until the service has looked into it."""

    trainable: bool | None = None
    signature: Mapping[str, Any] | None = None
    parameters: int | None = None
    macs: int | None = None
    origin: Mapping[str, str] | None = None

    _noun = "models"

    @property
    def model_id(self) -> str:
        return self.id

    def layers(self) -> list[dict[str, Any]]:
        """List the layers with weights, and what can be done to each."""
        items: list[dict[str, Any]] = self._transport.get(f"models/{self.id}/layers")["items"]
        return items


@dataclass(frozen=True)
class Dataset(_Upload):
    """``splits``, ``fields`` and ``labels`` are empty until the service has looked into it."""

    splits: Mapping[str, Any] = field(default_factory=dict)
    fields: Iterable[Mapping[str, Any]] = ()
    classes: int | None = None
    labels: Mapping[str, Any] | None = None

    _noun = "datasets"

    @property
    def dataset_id(self) -> str:
        return self.id


@dataclass(frozen=True)
class Artifact(Record):
    """A file that a job left."""

    id: str
    job_id: str
    name: str
    kind: str
    format: str
    size_bytes: int
    sha256: str
    created_at: datetime
    _transport: Transport = field(repr=False, compare=False)

    def download(self, filename: str | Path, *, progress: Progress | None = None) -> Path:
        return download(self._transport, f"artifacts/{self.id}/content", Path(filename), self.sha256, progress=progress)


@dataclass(frozen=True)
class Method(Record):
    """What a step of a recipe can be; ``schema`` is the JSON Schema of its fields."""

    name: str
    help: str
    trains: bool
    defaults: Mapping[str, Any]
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Device(Record):
    """A target: the runtime, and the kind of device, that a network is compressed for."""

    name: str
    runtime: str
    device: str
    formats: Iterable[str]
    precisions: Iterable[str]
    available: bool


def waits(timeout: float | None, what: str) -> Iterator[float]:
    """Give how long each request may wait, until all the time is over. Raises TimeoutError then."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = LONGEST_WAIT_SECONDS if deadline is None else deadline - time.monotonic()
        yield max(0.0, min(LONGEST_WAIT_SECONDS, left))
        if left <= 0:
            raise TimeoutError(f"{what} after {timeout:g} s.")
