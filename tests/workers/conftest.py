import pytest

from tests.workers.queue import Queue
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
def job_id(site):
    return site.submit(*site.add_inputs(), time_limit_seconds=60)


@pytest.fixture
def queue(tmp_path):
    queue = Queue(tmp_path)
    yield queue
    queue.close()
