"""Connections: SQLite made safe for several processes, PostgreSQL as it comes."""

import os
from contextlib import suppress
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from time import monotonic
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from app.domain.errors import Unavailable

Sessions = sessionmaker[Session]

_KNOWN = "Give sqlite:////folder/winnow.db, or postgresql://user:password@host:5432/name."
_BUSY_TIMEOUT_MS = 30_000
_READ_ONLY = "winnow_read_only"
_USED = "winnow_used"
# What statements are given is in no error, and so in no log: secrets of webhooks are among it, and what users sent.
_OPTIONS: dict[str, Any] = {"pool_size": 10, "max_overflow": 30, "hide_parameters": True}
_TRUSTED_SECONDS = 1.0
"""A connection that was in use so lately is there still; each look would be one more way to the server and back."""


def make_engine(url: str) -> Engine:
    """Open a pool on a database; the folder of an SQLite file is made where it is missing.

    Raises Unavailable where the URL is of no database that the service knows.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(parsed, **_OPTIONS)
        event.listen(engine, "checkin", _note_use)
        event.listen(engine, "checkout", _check)
        return engine
    if not parsed.database or parsed.database == ":memory:":
        raise Unavailable(f"SQLite needs a file: every process must see the same database. {_KNOWN}")
    _make_file(Path(parsed.database))
    engine = create_engine(parsed, **_OPTIONS)
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text may hold a password: it is told to nobody.
        raise Unavailable(f"WINNOW_DATABASE_URL is no URL. {_KNOWN}") from None
    kind = parsed.get_backend_name()
    if kind not in {"sqlite", "postgresql"}:
        raise Unavailable(f"WINNOW_DATABASE_URL is of {kind}, which the service does not know. {_KNOWN}")
    return parsed


def _make_file(path: Path) -> None:
    """Make the database where it is missing, for its user alone: SQLite gives what stands beside it the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def make_sessions(engine: Engine, *, read_only: bool = False) -> Sessions:
    """Make sessions whose objects stay readable after the commit.

    A read-only one takes no write lock on SQLite, so that readers never wait for a writer.
    """
    return sessionmaker(reading(engine) if read_only else engine, expire_on_commit=False)


def reading(engine: Engine) -> Engine:
    """Give the same pool for transactions that only read."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_READ_ONLY: True})
    # Each statement of a transaction sees what was committed before it, as it does without one: to begin and to end
    # one would be two more ways to the server and back.
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_USED] = monotonic()


def _check(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Try a connection out that was not in use for a while: the server may have gone away meanwhile."""
    if monotonic() - record.info.get(_USED, 0.0) < _TRUSTED_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Exception as error:
        raise DisconnectionError from error  # the pool opens another


def _set_pragmas(connection: SqliteConnection, _record: Any) -> None:
    # The driver's own BEGIN is deferred: two writers would then meet at the upgrade and one would fail at once.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
