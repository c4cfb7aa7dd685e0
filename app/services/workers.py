"""Which workers live, and so which targets are served and whether the service can take a job."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from app.db import workers
from app.db.tables import WorkerRow
from app.domain.target import TARGETS, Target


def live(session: Session, timeout_seconds: int) -> list[WorkerRow]:
    return list(workers.live(session, datetime.now(UTC) - timedelta(seconds=timeout_seconds)))


@dataclass(frozen=True)
class ServedTarget:
    """A target, whether a live worker serves it, and the sandboxes of those that do."""

    target: Target
    available: bool
    isolation: tuple[str, ...]


def targets(session: Session, timeout_seconds: int) -> list[ServedTarget]:
    alive = live(session, timeout_seconds)
    served = []
    for target in TARGETS:
        serving = [worker for worker in alive if target.name in worker.targets]
        isolation = tuple(sorted({worker.isolation for worker in serving}))
        served.append(ServedTarget(target, available=bool(serving), isolation=isolation))
    return served
