"""Run migrations on the connection handed in, or on the database of the settings."""

from typing import Literal

from alembic import context
from sqlalchemy import Connection

from app.db.engine import make_engine
from app.db.tables import Base, UtcDateTime
from app.settings import Settings


def render_item(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Write our own types as what they are in the database, so that a migration stands alone."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        render_item=render_item,
        # One transaction for all: PostgreSQL and SQLite both roll back DDL.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


handed_in = context.config.attributes.get("connection")
if handed_in is not None:
    run(handed_in)
else:
    with make_engine(Settings().database_url).connect() as connection:
        run(connection)
