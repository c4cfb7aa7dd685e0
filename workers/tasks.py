"""What the broker may ask of a worker, and the worker's own beginning and end."""

import threading
from functools import cache, partial
from typing import Any, Literal

import structlog
from celery import Task
from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down
from sqlalchemy import Engine
from structlog.contextvars import bound_contextvars

from app.db.engine import make_engine, make_sessions
from app.storage import Storage
from workers import health, inspection, runner
from workers.celery_app import app, settings
from workers.heartbeat import Heartbeat
from workers.isolation.backends import probe
from workers.isolation.policy import Limits, compile_code
from workers.sandbox import Sandbox
from workers.workplace import Timing, Workplace, own_scratch

_stopping = threading.Event()
_activity = health.Activity()

log = structlog.get_logger()


@cache
def database() -> Engine:
    return make_engine(settings.database_url)


@cache
def workplace(name: str) -> Workplace:
    sessions = make_sessions(database())
    storage = Storage(settings.storage_url)
    scratch = own_scratch(settings.data.absolute() / "scratch", name)
    timing = Timing(settings.lease_seconds, settings.checkpoint_seconds, settings.retry_delay_seconds)
    return Workplace(
        name,
        scratch,
        sessions,
        storage,
        sandbox(),
        _stopping,
        settings.signing_key,
        timing=timing,
        measuring_lock=settings.measuring_lock,
    )


@cache
def sandbox() -> Sandbox:
    return Sandbox(probe(), Limits(settings.job_memory_bytes, settings.job_disk_bytes))


@app.task(name="winnow.run_job", bind=True)  # type: ignore[untyped-decorator]
def run_job(self: Task, job_id: str, attempt: int) -> None:
    with _activity.at_work(), bound_contextvars(job_id=job_id, attempt=attempt):
        runner.run_job(workplace(self.request.hostname), job_id, attempt)


@app.task(name="winnow.inspect", bind=True)  # type: ignore[untyped-decorator]
def inspect(self: Task, kind: Literal["model", "dataset"], id: str) -> None:  # noqa: A002  the message's own name
    with _activity.at_work(), bound_contextvars(upload_id=id):
        inspection.inspect(workplace(self.request.hostname), kind, id)


@worker_init.connect  # type: ignore[untyped-decorator]
def _prepare(sender: Any, **_: Any) -> None:
    _confine()
    # Before there is a broker, so that a worker that waits for one can say so.
    _serve_health(sender.hostname)


def _confine() -> None:
    """Find out how to confine what users upload, and end where there is no way."""
    isolation = sandbox().isolation.name
    log.info("isolation_probed", isolation=isolation)
    if isolation == "none" and not settings.trust_models:
        raise SystemExit(
            "winnowd: Neither bubblewrap nor Landlock works here, so users' files cannot be opened safely. Install "
            "bubblewrap, or set WINNOW_TRUST_MODELS=true where every model and data set comes from people you trust."
        )
    compile_code()


def _serve_health(name: str) -> None:
    host, port = settings.worker_health_host, settings.worker_health_port
    if port is None:
        return
    try:
        health.serve(host, port, partial(health.look, settings, database(), workplace(name), _queue(), _activity))
    except OSError as error:
        raise SystemExit(
            f"winnowd: The port {port} of {host} cannot be had for the worker's health: {error}"
        ) from error
    log.info("health_served", host=host, port=port)


def _queue() -> str:
    return str(next(iter(app.amqp.queues.consume_from)))


@worker_ready.connect  # type: ignore[untyped-decorator]
def _begin(sender: Any, **_: Any) -> None:
    heartbeat = Heartbeat(workplace(sender.hostname), _queue())
    heartbeat.start()
    _activity.consuming = True
    worker_shutdown.connect(lambda **_: heartbeat.stop(), weak=False)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    # The task that runs ends its child and puts the job back; then the worker has nothing left to wait for.
    _stopping.set()
