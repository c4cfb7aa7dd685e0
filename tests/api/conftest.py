import time

import pytest


@pytest.fixture
def unchanged(project):
    """Fail where a refusal left a file, a row or a message."""
    before = project.kept()
    yield
    # A connection that was cut is noticed a moment later.
    deadline = time.monotonic() + 60
    while project.kept() != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert project.kept() == before
