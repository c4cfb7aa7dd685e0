"""The first look into an upload, in a child: what the file holds, or why it is rejected."""

import json
import os
import time
from pathlib import Path
from typing import Literal, cast

import structlog
from pydantic import ValidationError

from app.db import datasets, models, outbox
from app.db.tables import DatasetRow, ModelRow
from app.domain.dataset import DatasetFacts, DatasetFormat
from app.domain.errors import ChildCrashed, Failure, TimeLimitExceeded, WinnowError
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
from workers.runner import crash
from workers.sandbox import ProtocolBreach, supervise
from workers.workplace import Workplace, write_task

_TRIES = 2
_LIMIT_SECONDS = 600
_PRIORITY = 5

log = structlog.get_logger()
Facts = ModelFacts | DatasetFacts


class InspectionWatcher:
    """Keeps the child's last word and its last lines."""

    def __init__(self, workplace: Workplace) -> None:
        self.last_word: DoneMessage | FailureMessage | None = None
        self.tail: list[str] = []
        self._workplace = workplace
        self._deadline = time.monotonic() + _LIMIT_SECONDS

    def message(self, message: Message) -> None:
        if isinstance(message, DoneMessage | FailureMessage):
            self.last_word = message

    def line(self, text: str) -> None:
        self.tail = [*self.tail, text][-5:]

    def must_stop(self) -> bool:
        return self._workplace.stopping.is_set() or time.monotonic() > self._deadline


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
            outbox.add(session, "winnow.inspect", "inspect", _PRIORITY, {"kind": kind, "id": upload_id})
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
    """Run the inspection, once more after a crash; null where this worker has to end first."""
    outcome: Facts | Failure | None = None
    for _ in range(_TRIES):
        with workplace.folder(row.id) as folder:
            try:
                outcome = _look_once(workplace, row, folder)
            except ProtocolBreach as breach:
                outcome = ChildCrashed(f"The process broke the protocol: {breach}.").failure()
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
        write_task(folder, InspectDataset(path=path, format=cast("DatasetFormat", row.format)))
    watcher = InspectionWatcher(workplace)
    exit_ = supervise(
        workplace.engine(folder), folder, watcher, workplace.sandbox, threads=len(os.sched_getaffinity(0))
    )
    if isinstance(watcher.last_word, FailureMessage):
        return watcher.last_word.failure
    if isinstance(watcher.last_word, DoneMessage):
        return _facts(row, folder / OUTPUT_FOLDER / FACTS_FILE)
    if workplace.stopping.is_set():
        return None
    if exit_.stopped:
        return TimeLimitExceeded(f"The inspection took longer than {_LIMIT_SECONDS} seconds.").failure()
    return crash(exit_, watcher.tail)


def _facts(row: ModelRow | DatasetRow, path: Path) -> Facts:
    facts = ModelFacts if isinstance(row, ModelRow) else DatasetFacts
    try:
        return facts.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise ProtocolBreach(f"no facts: {error}") from error
