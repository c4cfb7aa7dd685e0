from contextlib import contextmanager

import pytest
import winnow

from tests.clients.flaky import Flaky
from tests.clients.running import running
from tests.clients.tus import TusServer


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Keep the client's files, and its environment, apart from the user's."""
    for name in ("WINNOW_URL", "WINNOW_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def tus():
    with running(TusServer()) as server:
        yield server


@contextmanager
def hurried(url, key, retries):
    """Give a client that waits for next to nothing between tries."""
    with winnow.Client(url, key, retries=retries) as client:
        client._transport._backoff = 0.001
        yield client


@pytest.fixture
def patient(tus):
    """Give a client of it."""
    with hurried(tus.url, "key", 3) as client:
        yield client


@pytest.fixture
def client(project):
    """Give a client of the real API."""
    with hurried(project.server.url, project.key, 2) as client:
        yield client


@pytest.fixture
def flaky():
    with running(Flaky()) as server:
        yield server


@pytest.fixture
def stubborn(flaky):
    """Give a client of the flaky server that tries three times again at once."""
    with hurried(flaky.url, "key", 3) as client:
        yield client
