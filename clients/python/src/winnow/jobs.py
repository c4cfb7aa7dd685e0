"""A job: followed, waited for, and what it left."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from winnow.downloading import Progress
from winnow.errors import ConnectionFailed, JobFailed, NotFound, ProblemError
from winnow.objects import LONGEST_WAIT_SECONDS, Artifact, Model, waits
from winnow.transport import Transport, body_of, worth_another_try

ENDED = frozenset({"succeeded", "failed", "cancelled", "timed_out"})
_PING_SECONDS = 15
"""A stream of events says nothing for so long."""
_EVENTS_SECONDS = 1
"""Events are asked for so often where they cannot be followed."""
_MOST_A_PAGE = 200
_MOST_DOUBLED = 5
"""How often the pause between streams that told nothing is made twice as long."""
_MEDIA_TYPES = {"json": "application/json", "html": "text/html", "markdown": "text/markdown"}


@dataclass(frozen=True)
class JobStatus:
    """``code`` is the state in capitals, ``SUCCESS`` for succeeded; ``message`` why it failed."""

    state: str
    stage: str | None = None
    progress: float = 0.0
    message: str | None = None

    @property
    def code(self) -> str:
        return "SUCCESS" if self.success else self.state.upper()

    @property
    def success(self) -> bool:
        return self.state == "succeeded"

    @property
    def failure(self) -> bool:
        """Whether it ended in any other way."""
        return self.finished and not self.success

    @property
    def finished(self) -> bool:
        return self.state in ENDED

    @property
    def running(self) -> bool:
        return self.state in {"running", "cancelling"}

    @property
    def pending(self) -> bool:
        return self.state == "queued"

    def __str__(self) -> str:
        return self.code


@dataclass(frozen=True)
class Event:
    """One thing that happened in a job; ``id`` counts from 1."""

    id: int
    type: str
    at: datetime
    data: Mapping[str, Any]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        return cls(body["id"], body["type"], datetime.fromisoformat(body["at"]), body["data"])


@dataclass(frozen=True)
class JobResult:
    """Where everything that a job left has been put."""

    status: JobStatus
    url: str
    artifacts_dir: Path
    files: tuple[Path, ...]


class Job:
    """One job as it stood when it was last asked about; whatever asks the service brings it up to date."""

    def __init__(self, transport: Transport, body: Mapping[str, Any]) -> None:
        self._transport = transport
        self.raw = body

    def __repr__(self) -> str:
        return f"Job({self.job_id!r}, name={self.name!r}, state={self.raw['state']!r})"

    @property
    def job_id(self) -> str:
        return str(self.raw["id"])

    @property
    def id(self) -> str:
        return self.job_id

    @property
    def name(self) -> str:
        return str(self.raw["name"])

    @property
    def date(self) -> datetime:
        return datetime.fromisoformat(self.raw["created_at"])

    @property
    def url(self) -> str:
        return f"{self._transport.url}/api/v1/{self._path}"

    @property
    def failure(self) -> Mapping[str, Any] | None:
        """Why it failed: ``code``, ``class``, ``title``, ``detail`` and ``hint``."""
        found: Mapping[str, Any] | None = self.raw["failure"]
        return found

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """The headline figures of the report."""
        found: Mapping[str, Any] | None = self.raw["summary"]
        return found

    def get_status(self) -> JobStatus:
        """Ask how it stands."""
        return self._refreshed()

    def wait(self, timeout: float | None = None, *, on_event: Callable[[Event], None] | None = None) -> JobStatus:
        """Wait for its end, however it ends; ``on_event`` is told all that happens meanwhile.

        Raises TimeoutError after ``timeout`` seconds, which does nothing to the job.
        """
        if on_event is not None and timeout is None:
            for event in self.events():
                on_event(event)
            on_event = None
        told, longest = 0, LONGEST_WAIT_SECONDS if on_event is None else _EVENTS_SECONDS
        for seconds in waits(timeout, f"{self.job_id} is {self.raw['state']}"):
            finished = self._status().finished
            if on_event is not None:
                for event in self._events_so_far(told):
                    on_event(event)
                    told = event.id
            if finished:
                break
            self._refreshed(wait=min(seconds, longest))
        return self._status()

    def result(self, timeout: float | None = None) -> "Job":
        """Wait for success. Raises JobFailed, with the service's code and hint, where it ends otherwise."""
        status = self.wait(timeout)
        if not status.success:
            failure = self.failure or {}
            raise JobFailed(
                f"{self.job_id} {status.state}: {failure.get('detail', 'it was ended.')}",
                code=failure.get("code", status.state),
                hint=failure.get("hint"),
                job_id=self.job_id,
                state=status.state,
            )
        return self

    def events(self, after: int = 0) -> Iterator[Event]:
        """Follow what happens until the job ends; a cut connection is taken up where it broke."""
        tried = silent = 0
        while True:
            try:
                for event in self._stream(after):
                    yield event
                    after, tried, silent = event.id, 0, 0
            except (ProblemError, ConnectionFailed) as error:
                if tried == self._transport.retries or not worth_another_try(error):
                    raise
                self._transport.pause(tried, error)
                tried += 1
            else:
                # A server that stops ends its streams as the end of the job does.
                if self._refreshed().finished:
                    return
                # What stands between may end each at once.
                self._transport.pause(min(silent, _MOST_DOUBLED))
                silent += 1

    def cancel(self) -> JobStatus:
        """Ask it to end, within seconds; what it has made so far is kept."""
        self.raw = self._transport.post(f"{self._path}:cancel")
        return self._status()

    def retry(self) -> JobStatus:
        """Queue it again, from its last checkpoint, after it failed, was cancelled or ran out of time."""
        self.raw = self._transport.post(f"{self._path}:retry")
        return self._status()

    def delete(self) -> None:
        self._transport.delete(self._path)

    def get_report(self, form: str = "json") -> Any:
        """Give what it measured: the object, or the text of the ``html`` page or the ``markdown`` model card."""
        response = self._transport.request("GET", f"{self._path}/report", headers={"Accept": _MEDIA_TYPES[form]})
        return body_of(response) if form == "json" else response.text

    def download_profile(self, filename: str | Path | None = None) -> Any:
        """Wait, and give the timings of both networks; into a file where one is named."""
        self.wait()
        report = self.get_report()
        profile = {side: report[side] and report[side]["latency"] for side in ("baseline", "compressed")}
        if filename is None:
            return profile
        Path(filename).write_text(json.dumps(profile, indent=2))
        return Path(filename)

    def get_logs(self) -> str:
        return self._transport.request("GET", f"{self._path}/logs").text

    def download_job_logs(self, output_dir: str | Path) -> list[Path]:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.job_id}.log"
        path.write_text(self.get_logs())
        return [path]

    def artifacts(self) -> list[Artifact]:
        """List what it has left so far, by name."""
        items = self._transport.get(f"{self._path}/artifacts")["items"]
        return [Artifact.of(item, _transport=self._transport) for item in items]

    def artifact(self, name: str) -> Artifact:
        """Find one of them. Raises NotFound."""
        found = {item.name: item for item in self.artifacts()}
        if name not in found:
            raise NotFound(
                404, "not_found", f"{self.job_id} left no {name}.", hint=f"It left {', '.join(found) or 'nothing'}."
            )
        return found[name]

    def get_target_model(self) -> Model | None:
        """Wait, and register the compressed network as a model of its own; null where the job made none.

        It is a ``.pt2``, for further jobs, and comes from this job by its ``origin``. Asked again, the same day, it is
        the same model. The ONNX file that a runtime serves is fetched by ``download_target_model``.
        """
        self.wait()
        found = next((it for it in self.artifacts() if it.name == "model.pt2"), None)
        if found is None:
            return None
        payload = {"name": (self.name or self.job_id)[:200], "artifact_id": found.id}
        body = self._transport.post("models", payload, idempotency_key=f"target-model-{found.id}")
        return Model.of(body, _transport=self._transport)

    def download_target_model(self, filename: str | Path, *, progress: Progress | None = None) -> Path | None:
        """Wait, and fetch the compressed network: ``.pt2`` where the name ends so, else ONNX; null if there is none."""
        self.wait()
        target = Path(filename)
        target = target if target.suffix else target.with_name(f"{target.name}.onnx")
        name = "model.pt2" if target.suffix == ".pt2" else "model.onnx"
        found = next((it for it in self.artifacts() if it.name == name), None)
        return found.download(target, progress=progress) if found else None

    def download_results(self, artifacts_dir: str | Path, *, progress: Progress | None = None) -> JobResult:
        """Wait, and fetch all that it left into a folder. Files that are there already and whole are left alone."""
        status, folder = self.wait(), Path(artifacts_dir).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        # A name is the server's: it is never let out of the folder.
        files = [it.download(folder / Path(it.name).name, progress=progress) for it in self.artifacts()]
        return JobResult(status, self.url, folder, tuple(files))

    @property
    def _path(self) -> str:
        return f"jobs/{self.job_id}"

    def _refreshed(self, **query: Any) -> JobStatus:
        self.raw = self._transport.get(self._path, **query)
        return self._status()

    def _status(self) -> JobStatus:
        failure = self.failure
        return JobStatus(
            self.raw["state"], self.raw["stage"], self.raw["progress"], str(failure["detail"]) if failure else None
        )

    def _stream(self, after: int) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        data: list[str] = []
        with self._transport.stream(f"{self._path}/events", headers, silent_seconds=_PING_SECONDS) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    body = json.loads("\n".join(data))
                    data = []
                    yield Event.of(body)

    def _events_so_far(self, after: int) -> Iterator[Event]:
        while True:
            page = self._transport.get(f"{self._path}/events", after=after, limit=_MOST_A_PAGE)
            yield from map(Event.of, page["items"])
            if page["next_cursor"] is None:
                return
            after = page["next_cursor"]
