"""The hold on one running job: renewed while the attempt lives, and told when it is lost."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

from app.db import jobs
from app.db.tables import JobRow
from workers.workplace import Workplace

DATABASE_AWAY = (OperationalError, InterfaceError)
"""What the driver raises where the database cannot be reached, is locked or full: it may pass."""
_RENEWALS = 4
_PAUSE_SECONDS = 0.5

log = structlog.get_logger()
Result = TypeVar("Result")


def until(workplace: Workplace) -> datetime:
    """Give the time up to which a lease taken now lasts."""
    return datetime.now(UTC) + timedelta(seconds=workplace.timing.lease_seconds)


class Lease:
    """Renews four times a lease from a thread of its own, since the watch may wait for the storage."""

    def __init__(self, workplace: Workplace, job: JobRow) -> None:
        self._workplace = workplace
        self._job = job
        self._seconds = workplace.timing.lease_seconds
        self._expires = time.monotonic() + self._seconds
        self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease {job.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def over(self) -> bool:
        """Tell whether another attempt may by now run the job."""
        return self._lost or time.monotonic() > self._expires

    def insist(self, operation: Callable[[], Result]) -> Result:
        """Do what writes to the database, again where that cannot be reached, until the lease is over.

        Raises the database's error then. The operation must be one that may be done twice.
        """
        while True:
            try:
                return operation()
            except DATABASE_AWAY as error:
                if self.over:
                    raise
                log.warning("database_away", job_id=self._job.id, error=str(error))
                time.sleep(_PAUSE_SECONDS)

    def _run(self) -> None:
        pause = self._seconds / _RENEWALS
        while not self._lost and not self._ended.wait(pause):
            asked = time.monotonic()
            try:
                with self._workplace.sessions.begin() as session:
                    held = jobs.renew(session, self._job.id, self._job.attempt, until(self._workplace))
            except DATABASE_AWAY as error:
                log.warning("lease_not_renewed", job_id=self._job.id, error=str(error))
                pause = min(_PAUSE_SECONDS, self._seconds / _RENEWALS)
                continue
            self._expires, pause = asked + self._seconds, self._seconds / _RENEWALS
            self._lost = not held
