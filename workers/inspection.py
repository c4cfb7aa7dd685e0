"""The first look into an upload, in a child: what the file holds, or why it is rejected."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, cast

import structlog
from pydantic import ValidationError

from app.db import datasets, inspections, models, outbox
from app.db.tables import DatasetRow, ModelRow
from app.domain.dataset import DatasetFacts, DatasetFormat, Preprocessing
from app.domain.errors import Failure, TimeLimitExceeded, Unavailable, WinnowError
from app.domain.model import ModelFacts, ModelFormat
from app.domain.task import (
    FACTS_FILE,
    OUTPUT_FOLDER,
    DoneMessage,
    FailureMessage,
    InspectDataset,
    InspectModel,
    Message,
)
from app.services import contents
from app.storage import content_key
from workers import outputs
from workers.lease import DATABASE_AWAY
from workers.runner import breach, crash
from workers.sandbox import ProtocolBreach, supervise
from workers.workplace import Workplace, write_task

_TRIES = 2
_LIMIT_SECONDS = 600
_FACTS_BYTES = 16 << 20
_PRIORITY = 5

log = structlog.get_logger()
Facts = ModelFacts | DatasetFacts


class InspectionWatcher:
    """Keeps the child's last word and its last lines."""

    def __init__(self, workplace: Workplace, row: ModelRow | DatasetRow) -> None:
        self.last_word: DoneMessage | FailureMessage | None = None
        self.tail: list[str] = []
        self._workplace = workplace
        self._row = row
        self._deadline = time.monotonic() + _LIMIT_SECONDS
        self._next_sign = time.monotonic()

    def message(self, message: Message) -> None:
        if isinstance(message, DoneMessage | FailureMessage):
            self.last_word = message

    def line(self, text: str) -> None:
        self.tail = [*self.tail, text][-5:]

    def turn_comes(self) -> bool:
        """Measure nothing."""
        return False

    def must_stop(self) -> bool:
        if time.monotonic() > self._next_sign:
            self._give_sign()
        return self._workplace.stopping.is_set() or time.monotonic() > self._deadline

    def _give_sign(self) -> None:
        """Say that the inspection is at work, lest it is asked for again."""
        self._next_sign = time.monotonic() + self._workplace.timing.lease_seconds / 4
        try:
            with self._workplace.sessions.begin() as session:
                inspections.touch(session, self._row, datetime.now(UTC))
        except DATABASE_AWAY as error:
            log.warning("no_sign_of_inspection", id=self._row.id, error=str(error))


def inspect(workplace: Workplace, kind: Literal["model", "dataset"], upload_id: str) -> None:
    """Make the upload ready or reject it; nothing happens where it no longer waits for that."""
    table = models if kind == "model" else datasets
    with workplace.sessions.begin() as session:
        row = table.to_inspect(session, upload_id)
    if row is None:
        log.info("nothing_to_inspect", id=upload_id)
        return
    outcome = _look(workplace, row)
    if outcome is None:
        with workplace.sessions.begin() as session:
            after = timedelta(seconds=0 if workplace.stopping.is_set() else workplace.timing.retry_delay_seconds)
            outbox.add(session, outbox.INSPECT, "inspect", _PRIORITY, {"kind": kind, "id": upload_id}, after=after)
        return
    with workplace.sessions.begin() as session:
        finished = (
            models.finish_inspection(session, upload_id, cast("ModelFacts | Failure", outcome))
            if kind == "model"
            else datasets.finish_inspection(session, upload_id, cast("DatasetFacts | Failure", outcome))
        )
    if finished and isinstance(outcome, Failure):
        contents.release(workplace.sessions, workplace.storage, row.project_id, row.sha256)
    log.info("inspected", id=upload_id, code=outcome.code if isinstance(outcome, Failure) else None)


def _look(workplace: Workplace, row: ModelRow | DatasetRow) -> Facts | Failure | None:
    """Run the inspection, once more after a crash; null where this worker has to end, or has no storage now."""
    outcome: Facts | Failure | None = None
    for _ in range(_TRIES):
        with workplace.folder(row.id) as folder:
            try:
                outcome = _look_once(workplace, row, folder)
            except ProtocolBreach as error:
                outcome = breach(error)
            except Unavailable as error:
                log.warning("inspection_put_off", id=row.id, error=error.detail)
                return None
            except WinnowError as error:
                return error.failure()
        if not isinstance(outcome, Failure) or outcome.class_ != "transient":
            return outcome
    return outcome


def _look_once(workplace: Workplace, row: ModelRow | DatasetRow, folder: Path) -> Facts | Failure | None:
    path = f"upload.{row.format}"
    workplace.storage.fetch_to(content_key(row.project_id, row.sha256), folder / path)
    if isinstance(row, ModelRow):
        write_task(folder, InspectModel(path=path, format=cast("ModelFormat", row.format)))
    else:
        steps = None if row.preprocessing is None else Preprocessing.model_validate(row.preprocessing)
        write_task(folder, InspectDataset(path=path, format=cast("DatasetFormat", row.format), preprocessing=steps))
    watcher = InspectionWatcher(workplace, row)
    exit_ = supervise(
        workplace.engine(folder), folder, watcher, workplace.sandbox, threads=len(os.sched_getaffinity(0))
    )
    if isinstance(watcher.last_word, FailureMessage):
        return watcher.last_word.failure
    if isinstance(watcher.last_word, DoneMessage):
        return _facts(row, folder / OUTPUT_FOLDER)
    if workplace.stopping.is_set():
        return None
    if exit_.stopped:
        return TimeLimitExceeded(f"The inspection took longer than {_LIMIT_SECONDS} seconds.").failure()
    return crash(exit_, watcher.tail)


def _facts(row: ModelRow | DatasetRow, output: Path) -> Facts:
    facts = ModelFacts if isinstance(row, ModelRow) else DatasetFacts
    content = outputs.read_file(output, FACTS_FILE, _FACTS_BYTES)
    if content is None:
        raise ProtocolBreach("no facts")
    try:
        return facts.model_validate_json(content)
    except ValidationError as error:
        raise ProtocolBreach(f"no facts: {error}") from error
