"""Figures for Prometheus, read from the database when they are asked for."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.db import jobs, outbox
from app.db.engine import Sessions
from app.services import workers

Counts = dict[tuple[str, str], int]
"""Numbers of jobs by queue and state."""

_BEARABLE_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(frozen=True)
class _Counted:
    """What was counted, when, and how long that took."""

    counts: Counts
    at: float
    seconds: float

    @property
    def age(self) -> float:
        return time.monotonic() - self.at


class JobCounts:
    """Jobs by queue and state, as they were counted last.

    To count a few is cheap, and done for whoever asks. To count millions is not: who asks is told what was counted
    before, and how long ago, while a thread counts anew, for no more than a hundredth of the time. What nobody asked
    for in long is counted for who asks again, unless that takes longer than a scrape should.
    """

    def __init__(
        self, readers: Sessions, cheap_seconds: float = 0.05, pause: float = 100.0, old_seconds: float = 120.0
    ) -> None:
        self._readers = readers
        self._cheap_seconds, self._pause, self._old_seconds = cheap_seconds, pause, old_seconds
        self._lock = threading.Lock()
        self._counting: threading.Thread | None = None
        self._counted: _Counted | None = None

    def read(self) -> tuple[Counts, float]:
        """Give the counts, and their age in seconds."""
        with self._lock:
            if self._counted is None or self._counted.seconds < self._bearable_seconds(self._counted.age):
                self._counted = self._count()
            elif self._counted.age > self._pause * self._counted.seconds and not self._is_counting():
                self._counting = threading.Thread(target=self._recount, name="counts", daemon=True)
                self._counting.start()
            return self._counted.counts, self._counted.age

    def _bearable_seconds(self, age: float) -> float:
        return self._cheap_seconds if age < self._old_seconds else _BEARABLE_SECONDS

    def _is_counting(self) -> bool:
        return self._counting is not None and self._counting.is_alive()

    def _count(self) -> _Counted:
        began = time.monotonic()
        with self._readers() as session:
            counts = jobs.count_by_state(session)
        return _Counted(counts, began, time.monotonic() - began)

    def _recount(self) -> None:
        try:
            counted = self._count()
        except SQLAlchemyError as error:
            log.warning("counting_failing", error=str(error))
            return
        with self._lock:
            self._counted = counted


class ServiceCollector(Collector):
    """Jobs by queue and state, messages waiting to be published, and workers alive."""

    def __init__(self, readers: Sessions, job_counts: JobCounts, worker_timeout_seconds: int) -> None:
        self._readers = readers
        self._job_counts = job_counts
        self._worker_timeout_seconds = worker_timeout_seconds

    def collect(self) -> Iterable[GaugeMetricFamily]:
        counts, age = self._job_counts.read()
        with self._readers() as session:
            waiting = outbox.count(session)
            alive = workers.live(session, self._worker_timeout_seconds)
        by_state = GaugeMetricFamily("winnow_jobs", "Jobs by queue and state.", labels=["queue", "state"])
        for (queue, state), count in sorted(counts.items()):
            by_state.add_metric([queue, state], count)
        counted = GaugeMetricFamily("winnow_jobs_age_seconds", "Time since the jobs were counted.", value=round(age, 3))
        by_queue = GaugeMetricFamily("winnow_workers", "Live workers by queue.", labels=["queue"])
        for queue in sorted({worker.queue for worker in alive}):
            by_queue.add_metric([queue], sum(worker.queue == queue for worker in alive))
        messages = GaugeMetricFamily("winnow_outbox_messages", "Messages not yet published.", value=waiting)
        return [by_state, counted, by_queue, messages]


def exposition(readers: Sessions, job_counts: JobCounts, worker_timeout_seconds: int) -> bytes:
    """Write all figures in the text format."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(readers, job_counts, worker_timeout_seconds))
    return generate_latest(registry)
