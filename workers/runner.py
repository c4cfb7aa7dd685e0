"""The life of one attempt at a job: claim, fetch, supervise, deliver, finish."""

import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, cast

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.db import artifacts, datasets, jobs, models, outbox
from app.db.tables import JobRow, ModelRow
from app.domain.dataset import DatasetFormat, Preprocessing
from app.domain.errors import (
    ChildCrashed,
    Failure,
    InternalError,
    OutOfMemory,
    ResourceLimitExceeded,
    StorageFull,
    TimeLimitExceeded,
    WinnowError,
)
from app.domain.job import JobSpec, JobState
from app.domain.model import ModelFormat
from app.domain.report import ANY_REPORT
from app.domain.steps.prune import PruneSpec
from app.domain.task import (
    CHECKPOINT_FILE,
    LOG_FILE,
    OUTPUT_FOLDER,
    REPORT_FILE,
    ArtifactMessage,
    Compress,
    DoneMessage,
    EventMessage,
    FailureMessage,
    Message,
    ModelFile,
    TurnMessage,
    Upload,
)
from app.services import contents, sensitivity
from app.services.models import get as find_model
from app.storage import content_key, is_full
from workers import deliveries, outputs
from workers.checkpoints import Checkpoints
from workers.isolation.usage import Excess
from workers.journal import Journal
from workers.lease import DATABASE_AWAY, Lease, until
from workers.manifests import deliver_manifest
from workers.sandbox import Exit, ProtocolBreach, supervise
from workers.turn import Turn
from workers.workplace import Workplace, write_task

_TAIL_LINES = 5
_EXCESS = {
    Excess.TASKS: "The process started more processes and threads than it may.",
    Excess.DISK: "The process wrote more to its folder than it may.",
}

log = structlog.get_logger()


class Stop(Enum):
    """Why a child was killed before its time."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    LOST = "lost"


class JobWatcher:
    """Hears one child: events into the journal, artifacts into the storage, the last word kept."""

    def __init__(
        self, workplace: Workplace, job: JobRow, folder: Path, lease: Lease, log_file: IO[bytes], turn: Turn
    ) -> None:
        self.journal = Journal(workplace.sessions, job.id, job.attempt, log_file)
        self.last_word: DoneMessage | FailureMessage | None = None
        self.stop: Stop | None = None
        self.tail: list[str] = []
        self._workplace = workplace
        self._job = job
        self._lease = lease
        self._announcements = deliveries.Announcements(folder / OUTPUT_FOLDER, workplace.sandbox.limits.disk_bytes)
        self._turn = turn
        self._deadline = time.monotonic() + float(job.spec["time_limit_seconds"])

    def message(self, message: Message) -> None:
        match message:
            case EventMessage():
                self.journal.hear(message)
            case ArtifactMessage():
                with self._announcements.opened(message.name) as file:
                    self._lease.insist(lambda: deliveries.deliver(self._workplace, self._job, file, message))
            case TurnMessage(wanted=True):
                self._turn.ask()
            case TurnMessage():
                self._turn.give_back()
            case DoneMessage() | FailureMessage():
                self.last_word = message

    def turn_comes(self) -> bool:
        return self._turn.comes()

    def line(self, text: str) -> None:
        self.journal.line(text)
        self.tail = [*self.tail, text][-_TAIL_LINES:]

    def must_stop(self) -> bool:
        state = self._state()
        if state is JobState.CANCELLING:
            self.stop = Stop.CANCELLED
        elif state is not JobState.RUNNING or self._lease.over:
            self.stop = Stop.LOST
        elif self._workplace.stopping.is_set():
            self.stop = Stop.INTERRUPTED
        elif time.monotonic() > self._deadline + self._turn.waited:
            self.stop = Stop.TIMED_OUT
        return self.stop is not None

    def _state(self) -> JobState | None:
        """Write down what was heard; where the database is away, the job counts as running while its lease lasts."""
        try:
            return self.journal.flush()
        except DATABASE_AWAY as error:
            log.warning("journal_not_written", job_id=self._job.id, error=str(error))
            return JobState.RUNNING


def run_job(workplace: Workplace, job_id: str, attempt: int) -> None:
    """Run an attempt to its end; nothing happens where it is not there to be claimed."""
    with workplace.sessions.begin() as session:
        job = jobs.claim(session, job_id, attempt, workplace.name, datetime.now(UTC), until(workplace))
    if job is None:
        log.info("nothing_to_claim", job_id=job_id, attempt=attempt)
        return
    log.info("job_started", job_id=job_id, attempt=attempt)
    with Lease(workplace, job) as lease:
        try:
            # The log has no name: in the child's folder it could become a link to what only this process may read.
            with (
                workplace.folder(f"{job_id}-{attempt}") as folder,
                tempfile.TemporaryFile(dir=workplace.scratch) as log_file,
            ):
                _run(workplace, job, folder, lease, log_file)
        except SQLAlchemyError:
            raise  # the row cannot be written: what the job came to is for its lease to settle
        except Exception as error:
            log.exception("job_broken", job_id=job_id, attempt=attempt)
            failure = _unforeseen(error)
            lease.insist(lambda: _finish(workplace, job, None, failure, None))


def _run(workplace: Workplace, job: JobRow, folder: Path, lease: Lease, log_file: IO[bytes]) -> None:
    with Turn(workplace.measuring_lock) as turn:
        watcher = JobWatcher(workplace, job, folder, lease, log_file, turn)
        failure = _attempt(workplace, job, folder, watcher)
    lease.insist(watcher.journal.flush)
    if watcher.stop is Stop.LOST:
        log.warning("job_lost", job_id=job.id, attempt=job.attempt)
        return
    if watcher.stop is Stop.INTERRUPTED and _put_back(workplace, job):
        log.info("job_put_back", job_id=job.id, attempt=job.attempt)
        return
    message = ArtifactMessage(name=LOG_FILE, kind="log", format="text")
    try:
        lease.insist(lambda: deliveries.deliver(workplace, job, log_file, message))
        if failure is None or failure.class_ != "transient":
            lease.insist(lambda: deliver_manifest(workplace, job))
    except WinnowError as error:
        failure = failure or error.failure()
    summary = None
    try:
        summary = _summary(folder)
    except ProtocolBreach as error:
        failure = failure or breach(error)
    lease.insist(lambda: _finish(workplace, job, watcher.stop, failure, summary))


def _attempt(workplace: Workplace, job: JobRow, folder: Path, watcher: JobWatcher) -> Failure | None:
    """Fetch what the job needs and run it; return why it failed, null where it did not."""
    threads = len(os.sched_getaffinity(0))
    try:
        write_task(folder, _fetch(workplace, job, folder, threads))
        gpu = job.queue == "gpu"
        with Checkpoints(workplace, job, folder) as checkpoints:
            exit_ = supervise(workplace.engine(folder), folder, watcher, workplace.sandbox, threads=threads, gpu=gpu)
        if not isinstance(watcher.last_word, DoneMessage):
            checkpoints.keep()
    except ProtocolBreach as error:
        return breach(error)
    except WinnowError as error:
        return error.failure()
    if isinstance(watcher.last_word, FailureMessage):
        return watcher.last_word.failure
    if isinstance(watcher.last_word, DoneMessage):
        return None
    return crash(exit_, watcher.tail)


def _fetch(workplace: Workplace, job: JobRow, folder: Path, threads: int) -> Compress:
    """Lay down what the child reads. Raises NoSensitivity or NotFound where a thing is gone that a step names."""
    spec = JobSpec.model_validate(job.spec)
    asked = {step.sensitivity for step in spec.recipe if isinstance(step, PruneSpec) and step.sensitivity}
    named = {name for step in spec.recipe for name in step.models.values()}
    with workplace.sessions.begin() as session:
        model = models.get(session, job.project_id, job.model_id)
        dataset = datasets.get(session, job.project_id, job.dataset_id)
        tables = {name: sensitivity.find_table(session, job.project_id, name)[1] for name in sorted(asked)}
        others = [find_model(session, job.project_id, name) for name in sorted(named)]
    assert model is not None  # the row's foreign keys
    assert dataset is not None
    model_path, dataset_path = f"model.{model.format}", f"data.{dataset.format}"
    table_paths = {name: f"{name}.json" for name in tables}
    digests = {model_path: model.sha256, dataset_path: dataset.sha256}
    digests |= {table_paths[name]: table.sha256 for name, table in tables.items()}
    other_files = {
        other.id: ModelFile(
            path=f"{other.id}.{other.format}", format=cast("ModelFormat", other.format), way=_way(other)
        )
        for other in others
    }
    digests |= {other_files[other.id].path: other.sha256 for other in others}
    for path, sha256 in digests.items():
        workplace.storage.fetch_to(content_key(job.project_id, sha256), folder / path)
    return Compress(
        model_path=model_path,
        model_format=cast("ModelFormat", model.format),
        model_way=_way(model),
        dataset_path=dataset_path,
        dataset_format=cast("DatasetFormat", dataset.format),
        preprocessing=None if dataset.preprocessing is None else Preprocessing.model_validate(dataset.preprocessing),
        job=spec,
        sensitivities=table_paths,
        model=Upload(name=model.name, sha256=model.sha256),
        dataset=Upload(name=dataset.name, sha256=dataset.sha256),
        models=other_files,
        device="cuda" if job.queue == "gpu" else "cpu",
        threads=threads,
        service_version=version("winnow"),
    )


def _way(model: ModelRow) -> int | None:
    """Tell which way to read the file held in its inspection."""
    found: int | None = (model.facts or {}).get("way")
    return found


def crash(exit_: Exit, tail: list[str]) -> Failure:
    """Say why a child ended without a last word."""
    last = " Its last lines were: " + " / ".join(tail) if tail else ""
    if exit_.out_of_memory:
        return OutOfMemory(
            "The process needed more memory than there is for it.", hint="Try a smaller batch size or a larger worker."
        ).failure()
    if exit_.excess is not None:
        return ResourceLimitExceeded(_EXCESS[exit_.excess]).failure()
    return ChildCrashed(f"The process ended before its work: {exit_.reason}.{last}").failure()


def breach(error: ProtocolBreach) -> Failure:
    """Say how a child broke the protocol."""
    return ChildCrashed(f"The process broke the protocol: {error}.").failure()


def _unforeseen(error: Exception) -> Failure:
    if isinstance(error, WinnowError):
        return error.failure()
    if is_full(error):
        return StorageFull(f"The worker has no room left: {error}").failure()
    return InternalError(f"The worker could not run the job: {error}").failure()


def _put_back(workplace: Workplace, job: JobRow) -> bool:
    with workplace.sessions.begin() as session:
        put_back = jobs.put_back(session, job, datetime.now(UTC))
        if put_back:
            outbox.add_job(session, job)
    return put_back


def _finish(
    workplace: Workplace, job: JobRow, stop: Stop | None, failure: Failure | None, summary: dict[str, Any] | None
) -> None:
    limit = job.spec["time_limit_seconds"]
    match stop:
        case Stop.TIMED_OUT:
            state, failure = JobState.TIMED_OUT, TimeLimitExceeded(f"The limit is {limit} seconds.").failure()
        case Stop.CANCELLED | Stop.INTERRUPTED:
            state, failure = JobState.CANCELLED, None
        case _:
            state = JobState.SUCCEEDED if failure is None else JobState.FAILED
    if failure is not None and failure.class_ == "transient" and _try_again(workplace, job, failure):
        log.info("job_tried_again", job_id=job.id, attempt=job.attempt, code=failure.code)
        return
    with workplace.sessions.begin() as session:
        now = datetime.now(UTC)
        # A job whose time ran out while its user was cancelling it may only end cancelled.
        ended = jobs.finish(session, job.id, job.attempt, state, failure, summary, now) or jobs.finish(
            session, job.id, job.attempt, JobState.CANCELLED, None, summary, now
        )
        spare = artifacts.by_name(session, job.id, CHECKPOINT_FILE) if ended and state is JobState.SUCCEEDED else None
        if spare is not None:
            artifacts.delete(session, spare)
    if spare is not None:
        contents.release(workplace.sessions, workplace.storage, job.project_id, spare.sha256)
    log.info("job_ended", job_id=job.id, attempt=job.attempt, state=state if ended else "lost")


def _try_again(workplace: Workplace, job: JobRow, failure: Failure) -> bool:
    """Queue the job again, later each time, where it may be; what is at fault is given time to mend."""
    with workplace.sessions.begin() as session:
        after = timedelta(seconds=workplace.timing.retry_delay_seconds * 2**job.retries)
        if not jobs.try_again(session, job.id, job.attempt, failure, datetime.now(UTC), after=after):
            return False
        outbox.add_job(session, session.get_one(JobRow, job.id, populate_existing=True), after=after)
    return True


def _summary(folder: Path) -> dict[str, Any] | None:
    """Draw the headline figures from the report, where the child wrote one.

    Raises:
        ProtocolBreach: what it wrote is no report.
    """
    content = outputs.read_file(folder / OUTPUT_FOLDER, REPORT_FILE, deliveries.REPORT_BYTES)
    if content is None:
        return None
    try:
        return ANY_REPORT.validate_json(content).headline()
    except (KeyError, ValidationError) as error:
        raise ProtocolBreach(f"no report: {error}") from error
