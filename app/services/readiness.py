"""Whether the service can take a job: every part is asked, and each that fails is named."""

from collections.abc import Callable

import kombu
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db import migrations
from app.db.engine import Sessions
from app.domain.errors import Unavailable
from app.services import workers
from app.settings import Settings
from app.storage import Storage

_BROKER_TIMEOUT_SECONDS = 2
_NEEDED_QUEUES = ("inspect",)
_RUNNING_QUEUES = ("cpu", "gpu")


def check(settings: Settings, engine: Engine, readers: Sessions, storage: Storage) -> None:
    """Raise Unavailable, naming each part that is not ready, workers too."""
    found = look(settings, engine, storage)
    if found["database"] is None:
        found["workers"] = _fault_of(lambda: _check_workers(settings, readers))
    faults = [f"{name}: {fault}" for name, fault in found.items() if fault is not None]
    if faults:
        raise Unavailable(" ".join(faults))


def look(settings: Settings, engine: Engine, storage: Storage) -> dict[str, str | None]:
    """Ask each part that every process of the service needs; give what is wrong with it, null where nothing is."""
    return {
        "database": _fault_of(lambda: _check_database(engine)),
        "broker": _fault_of(lambda: _check_broker(settings.broker_url)),
        "storage": _fault_of(storage.check),
    }


def _fault_of(part: Callable[[], None]) -> str | None:
    try:
        part()
    except Unavailable as error:
        return error.detail
    return None


def _check_database(engine: Engine) -> None:
    try:
        current = migrations.at_head(engine)
    except SQLAlchemyError as error:
        raise Unavailable("The database does not answer.") from error
    if not current:
        raise Unavailable("The database lacks migrations.")


def _check_broker(url: str) -> None:
    options = {"socket_connect_timeout": _BROKER_TIMEOUT_SECONDS, "socket_timeout": _BROKER_TIMEOUT_SECONDS}
    try:
        # Opening a channel sends a PING.
        with kombu.Connection(url, transport_options=options) as connection:
            connection.channel().close()
    except Exception as error:
        # Each transport has exceptions of its own, and all mean the same here.
        raise Unavailable("The broker does not answer.") from error


def _check_workers(settings: Settings, readers: Sessions) -> None:
    with readers() as session:
        queues = {worker.queue for worker in workers.live(session, settings.worker_timeout_seconds)}
    missing = [queue for queue in _NEEDED_QUEUES if queue not in queues]
    if not queues.intersection(_RUNNING_QUEUES):
        missing.append(" or ".join(_RUNNING_QUEUES))
    if missing:
        raise Unavailable(f"No live worker serves the queue {', '.join(missing)}.")
