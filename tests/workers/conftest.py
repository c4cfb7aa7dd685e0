import pytest

from tests.workers.walls import BACKENDS, LIMITS
from workers.isolation.backends import works
from workers.sandbox import Sandbox

WORKING = {isolation.name for isolation in BACKENDS if works(isolation)}


@pytest.fixture(params=BACKENDS, ids=lambda isolation: isolation.name)
def sandbox(request):
    if request.param.name not in WORKING:
        pytest.skip(f"{request.param.name} does not work on this machine")
    return Sandbox(request.param, LIMITS)
