"""Which workers live, and so which targets are served and whether the service can take a job."""

from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from app.db import workers
from app.db.tables import WorkerRow
from app.domain.target import TARGETS, Target


def live(session: Session, timeout_seconds: int) -> list[WorkerRow]:
    return list(workers.live(session, datetime.now(UTC) - timedelta(seconds=timeout_seconds)))


def targets(session: Session, timeout_seconds: int) -> list[tuple[Target, bool]]:
    """Give every target, and whether a live worker serves it."""
    served = {name for worker in live(session, timeout_seconds) for name in worker.targets}
    return [(target, target.name in served) for target in TARGETS]
