"""The Celery application of the workers. What it delivers is a hint; the database row is the truth.

Messages are acknowledged before the task runs: a job that dies with its worker is told by its row,
where late acknowledgement would hand it out twice.
"""

from typing import Any

from celery import Celery
from celery.signals import setup_logging

from app import logs
from app.queue import TRANSPORT
from app.settings import Settings

settings = Settings()

app = Celery("winnow", broker=settings.broker_url, include=["workers.tasks"])
app.conf.update(
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    broker_transport_options=TRANSPORT,
    task_acks_late=False,
    task_ignore_result=True,
    task_serializer="json",
    worker_concurrency=1,
    worker_disable_prefetch=True,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    worker_pool="threads",
    worker_send_task_events=False,
)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logs(**_: Any) -> None:
    """Take the place of Celery's own set-up."""
    logs.configure()
