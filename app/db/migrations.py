"""Bring a database to the tables of this version, or tell whether it is there.

Alembic is imported where it is used: it is a tenth of what the API would import at its start.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from app.db.engine import reading
from app.domain.errors import Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

_SCRIPTS = Path(__file__).parents[2] / "alembic"


def upgrade(engine: Engine) -> None:
    """Apply every migration that the database lacks. Raises Unavailable where a later version has been there."""
    from alembic import command
    from alembic.util import CommandError

    try:
        with engine.connect() as connection:
            command.upgrade(_config(connection), "head")
    except CommandError as error:
        raise Unavailable(
            f"The database cannot be brought to this version: {error}. Where a later one has migrated it, install that,"
            " or restore the backup of before."
        ) from error


def check(engine: Engine) -> None:
    """Raise ``alembic.util.CommandError`` where the tables of the code and of the database differ."""
    from alembic import command

    with engine.connect() as connection:
        command.check(_config(connection))


def at_head(engine: Engine) -> bool:
    """Tell whether the database has exactly the migrations of this version."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    heads = set(ScriptDirectory(str(_SCRIPTS)).get_heads())
    # Asked by health checks, which are not to wait for a writer.
    with reading(engine).connect() as connection:
        return set(MigrationContext.configure(connection).get_current_heads()) == heads


def _config(connection: object) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
