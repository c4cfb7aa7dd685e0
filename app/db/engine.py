"""Connections: SQLite made safe for several processes, PostgreSQL as it comes."""

from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker

Sessions = sessionmaker[Session]

_BUSY_TIMEOUT_MS = 30_000
_READ_ONLY = "winnow_read_only"


def make_engine(url: str) -> Engine:
    """Open a pool on a database; the folder of an SQLite file is made where it is missing."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_size=10, max_overflow=30, pool_pre_ping=True)
    if not parsed.database or parsed.database == ":memory:":
        raise ValueError("SQLite needs a file: every process must see the same database")
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, pool_size=10, max_overflow=30)
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def make_sessions(engine: Engine, *, read_only: bool = False) -> Sessions:
    """Make sessions whose objects stay readable after the commit.

    A read-only one takes no write lock on SQLite, so that readers never wait for a writer.
    """
    return sessionmaker(reading(engine) if read_only else engine, expire_on_commit=False)


def reading(engine: Engine) -> Engine:
    """Give the same pool for transactions that only read."""
    return engine.execution_options(**{_READ_ONLY: True})


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
