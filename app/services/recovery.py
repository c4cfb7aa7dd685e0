"""Jobs and inspections brought back to the queue whose worker, or whose message, was lost."""

from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from app.db import inspections, jobs, outbox
from app.db.engine import Sessions
from app.db.tables import JobRow
from app.domain.errors import WorkerLost
from app.domain.job import JobState

JOB_QUEUES = ("cpu", "gpu")
INSPECTION_QUEUE = "inspect"
INSPECTION_PRIORITY = 5
_BATCH = 1000

Waiting = Callable[[str], int]
"""Gives the number of messages that the broker holds for a queue."""

log = structlog.get_logger()


def reap(readers: Sessions, sessions: Sessions, now: datetime) -> int:
    """Take jobs whose lease has run out from their workers; return how many.

    One that was being cancelled ends so; another is queued again, or fails where it has been too often.
    """
    with readers() as session:
        if not jobs.expired(session, now, 1):
            return 0
    with sessions.begin() as session:
        rows = jobs.expired(session, now, _BATCH)
        # By project, so that reapers side by side take the rows of their totals in one order.
        for row in sorted(rows, key=lambda row: row.project_id):
            log.warning("lease_expired", job_id=row.id, attempt=row.attempt, worker=row.worker, state=row.state)
            _settle(session, row, now)
    return len(rows)


def _settle(session: Session, row: JobRow, now: datetime) -> None:
    if row.state == JobState.CANCELLING:
        jobs.finish(session, row.id, row.attempt, JobState.CANCELLED, None, None, now)
        return
    failure = WorkerLost(f"Nothing was heard of the worker {row.worker} any more.").failure()
    if jobs.try_again(session, row.id, row.attempt, failure, now):
        outbox.add_job(session, session.get_one(JobRow, row.id, populate_existing=True))
    else:
        jobs.finish(session, row.id, row.attempt, JobState.FAILED, failure, None, now)


def sweep(readers: Sessions, sessions: Sessions, waiting: Waiting, before: datetime, now: datetime) -> int:
    """Publish again what has been queued since before a time and is no longer in the broker; return how many.

    The broker cannot be asked for one message. Where it holds fewer than there should be, all are sent once
    more: the claim makes the second of two do nothing.
    """
    with readers() as session:
        if outbox.any_due(session):
            return 0
    lost = sum(_sweep_jobs(readers, sessions, queue, waiting, before, now) for queue in JOB_QUEUES)
    return lost + sum(_sweep_inspections(readers, sessions, kind, waiting, before, now) for kind in inspections.TABLES)


def _sweep_jobs(
    readers: Sessions, sessions: Sessions, queue: str, waiting: Waiting, before: datetime, now: datetime
) -> int:
    with readers() as session:
        rows = jobs.waiting_since(session, queue, before, _BATCH)
    if not rows or waiting(queue) >= len(rows):
        return 0
    with sessions.begin() as session:
        asked = [row for row in rows if jobs.ask_again(session, row, now)]
        for row in asked:
            outbox.add_job(session, row)
    log.warning("messages_lost", queue=queue, published_again=len(asked))
    return len(asked)


def _sweep_inspections(
    readers: Sessions, sessions: Sessions, kind: str, waiting: Waiting, before: datetime, now: datetime
) -> int:
    with readers() as session:
        rows = inspections.waiting_since(session, kind, before, _BATCH)
    if not rows or waiting(INSPECTION_QUEUE) >= len(rows):
        return 0
    with sessions.begin() as session:
        asked = [row for row in rows if inspections.touch(session, row, now, unless_since=before)]
        for row in asked:
            payload = {"kind": kind, "id": row.id}
            outbox.add(session, outbox.INSPECT, INSPECTION_QUEUE, INSPECTION_PRIORITY, payload)
    log.warning("messages_lost", queue=INSPECTION_QUEUE, published_again=len(asked))
    return len(asked)
