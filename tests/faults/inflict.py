"""The faults: each does its harm to a cluster in the middle of a job, and mends what only an operator could."""

import os
import signal
import sqlite3
import time
from contextlib import suppress

import psutil
from celery import Celery
from sqlalchemy import make_url, text

from app.db import outbox
from app.queue import TRANSPORT, broker_priority
from tests.faults.cluster import LEASE_SECONDS

FILLING_SECONDS = 3.0
STARTING_SECONDS = 5.0


def kill_api(cluster):
    cluster.restart("api")


def kill_worker(cluster):
    cluster.restart("cpu")


def kill_child(cluster):
    """Kill the process that runs the engine, as soon as one does."""
    deadline = time.monotonic() + STARTING_SECONDS
    while not (found := cluster.engines()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in found[:1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def kill_broker(cluster):
    cluster.restart("broker")


def stop_worker(cluster):
    cluster.restart("cpu", signal.SIGTERM)


def flush_broker(cluster):
    cluster.flush_broker()


def freeze_worker(cluster):
    """Keep the worker still until its lease is over: it wakes to find that its job is another's."""
    with cluster.suspended("cpu"):
        time.sleep(LEASE_SECONDS * 1.6)


def deliver_thrice(cluster, jobs):
    """Send the message of every job three times more."""
    with Celery("faults", broker=cluster.settings.broker_url, set_as_current=False) as celery:
        celery.conf.update(broker_transport_options=TRANSPORT, task_ignore_result=True)
        for job in jobs * 3:
            payload = {"job_id": job, "attempt": 1}
            celery.send_task(outbox.RUN_JOB, kwargs=payload, queue="cpu", priority=broker_priority(5))


def cut_database(cluster):
    """End every connection of a PostgreSQL three times; keep all writers out of an SQLite for a lease and more."""
    url = make_url(cluster.settings.database_url)
    if url.get_backend_name() == "sqlite":
        with sqlite3.connect(url.database, timeout=60, isolation_level=None) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(LEASE_SECONDS * 1.2)
            connection.execute("ROLLBACK")
        connection.close()
        return
    for _ in range(3):
        with cluster.database.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        time.sleep(0.3)


def fill_storage(cluster):
    """Leave no room where contents are kept, for a while."""
    filler = cluster.objects / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        time.sleep(FILLING_SECONDS)
    finally:
        filler.unlink()


def can_fill(cluster):
    """Tell whether the storage stands on a file system of its own, and a small one."""
    status = os.statvfs(cluster.objects)
    return os.path.ismount(cluster.objects) and status.f_blocks * status.f_frsize <= 64 << 20


FAULTS = {
    "kill the API": kill_api,
    "kill the worker": kill_worker,
    "kill the child": kill_child,
    "kill the broker": kill_broker,
    "stop the worker": stop_worker,
    "flush the broker": flush_broker,
    "freeze the worker": freeze_worker,
    "deliver thrice": deliver_thrice,
    "cut the database": cut_database,
    "fill the storage": fill_storage,
}
