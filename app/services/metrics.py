"""Figures for Prometheus, read from the database when they are asked for."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.db import jobs, outbox
from app.db.engine import Sessions
from app.services import workers


class ServiceCollector(Collector):
    """Jobs by queue and state, messages waiting to be published, and workers alive."""

    def __init__(self, readers: Sessions, worker_timeout_seconds: int) -> None:
        self._readers = readers
        self._worker_timeout_seconds = worker_timeout_seconds

    def collect(self) -> Iterable[GaugeMetricFamily]:
        with self._readers() as session:
            counts = jobs.count_by_state(session)
            waiting = outbox.count(session)
            alive = workers.live(session, self._worker_timeout_seconds)
        by_state = GaugeMetricFamily("winnow_jobs", "Jobs by queue and state.", labels=["queue", "state"])
        for (queue, state), count in sorted(counts.items()):
            by_state.add_metric([queue, state], count)
        by_queue = GaugeMetricFamily("winnow_workers", "Live workers by queue.", labels=["queue"])
        for queue in sorted({worker.queue for worker in alive}):
            by_queue.add_metric([queue], sum(worker.queue == queue for worker in alive))
        messages = GaugeMetricFamily("winnow_outbox_messages", "Messages not yet published.", value=waiting)
        return [by_state, by_queue, messages]


def exposition(readers: Sessions, worker_timeout_seconds: int) -> bytes:
    """Write all figures in the text format."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(readers, worker_timeout_seconds))
    return generate_latest(registry)
