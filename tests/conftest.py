import pytest
from hypothesis import settings

# The same examples in every run and on every machine, each for as long as it takes; `--hypothesis-profile default`
# draws others.
settings.load_profile("ci")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    # Imported here, so that tests of the engine load nothing of the service.
    from tests.serving import serving

    with serving(tmp_path_factory.mktemp("service")) as server:
        yield server


@pytest.fixture
def project(server):
    """A fresh project with a key, which sees nothing of other tests."""
    project = server.project()
    yield project
    project.client.close()


@pytest.fixture
def site(tmp_path):
    """What an API would have left for a worker."""
    from tests.workers.site import Site

    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def foreign(server):
    """Somebody else's project."""
    foreign = server.project()
    yield foreign
    foreign.client.close()
