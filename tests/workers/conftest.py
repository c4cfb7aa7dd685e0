import pytest

from app.db.tables import DatasetRow, ModelRow
from tests.workers.site import Site
from tests.workers.walls import BACKENDS, LIMITS
from workers.isolation.backends import works
from workers.sandbox import Sandbox

WORKING = {isolation.name for isolation in BACKENDS if works(isolation)}


@pytest.fixture(params=BACKENDS, ids=lambda isolation: isolation.name)
def sandbox(request):
    if request.param.name not in WORKING:
        pytest.skip(f"{request.param.name} does not work on this machine")
    return Sandbox(request.param, LIMITS)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def job_id(site, tmp_path):
    model, data = tmp_path / "m.pt2", tmp_path / "d.npz"
    model.write_bytes(b"model")
    data.write_bytes(b"data")
    return site.submit(site.add_upload(ModelRow, model), site.add_upload(DatasetRow, data), time_limit_seconds=60)
