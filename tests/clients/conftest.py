import pytest
import winnow

from tests.clients.flaky import flaky_server
from tests.clients.tus import tus_server


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
    with tus_server() as server:
        yield server


@pytest.fixture
def patient(tus):
    """Give a client of it that waits for next to nothing between tries."""
    with winnow.Client(tus.url, "key", retries=3) as client:
        client._transport._backoff = 0.001
        yield client


@pytest.fixture
def client(project):
    """Give a client of the real API."""
    with winnow.Client(project.server.url, project.key, retries=2) as client:
        client._transport._backoff = 0.001
        yield client


@pytest.fixture
def flaky():
    with flaky_server() as server:
        yield server


@pytest.fixture
def stubborn(flaky):
    """Give a client of the flaky server that tries three times again at once."""
    with winnow.Client(flaky.url, "key", retries=3) as client:
        client._transport._backoff = 0.001
        yield client
