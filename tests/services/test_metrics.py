"""Counting jobs for whoever asks how many there are."""

import time

import pytest

from app.services.metrics import JobCounts
from tests.serving import serving as serve


@pytest.fixture
def project(tmp_path):
    """A project on a database of its own, whose jobs are all there are."""
    with serve(tmp_path) as server:
        found = server.project()
        yield found
        found.client.close()


def test_a_few_jobs_are_counted_for_each_who_asks(project):
    counts = JobCounts(project.server.parts.readers, cheap_seconds=60)
    assert counts.read()[0] == {}
    project.queued()
    began = time.monotonic()
    found, age = counts.read()
    assert found == {("cpu", "queued"): 1}
    assert age <= time.monotonic() - began


def test_many_are_counted_behind_the_back_of_who_asks(project):
    counts = JobCounts(project.server.parts.readers, cheap_seconds=0, pause=0)
    assert counts.read()[0] == {}
    project.queued()
    found, age = counts.read()
    assert (found, age > 0) == ({}, True)
    deadline = time.monotonic() + 60
    while counts.read()[0] != {("cpu", "queued"): 1}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_counting_many_takes_a_share_of_the_time_alone(project):
    counts = JobCounts(project.server.parts.readers, cheap_seconds=0, pause=1e9)
    assert counts.read()[0] == {}
    project.queued()
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        found, age = counts.read()
        assert found == {}
    assert age >= 0.25


def test_what_nobody_asked_for_in_long_is_not_told(project):
    counts = JobCounts(project.server.parts.readers, cheap_seconds=0, pause=1e9, old_seconds=0.2)
    assert counts.read()[0] == {}
    project.queued()
    time.sleep(0.3)
    began = time.monotonic()
    found, age = counts.read()
    assert found == {("cpu", "queued"): 1}
    assert age <= time.monotonic() - began
