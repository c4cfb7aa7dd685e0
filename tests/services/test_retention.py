import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from app.db import artifacts, jobs
from app.db.tables import ArtifactRow, ModelRow
from app.domain.ids import Prefix, new_id
from app.domain.job import EventType, JobState
from app.services.retention import Collector
from app.settings import Settings
from app.storage import content_key

DAY = timedelta(days=1)
NOTHING = {"checkpoints": 0, "logs": 0, "inputs": 0, "contents": 0, "unfinished": 0, "bytes": 0}


@pytest.fixture
def inputs(site):
    return site.add_inputs()


def ended(site, inputs, files):
    """Run a job by hand to its end, with these files as (name, kind, content)."""
    job, now = site.submit(*inputs), datetime.now(UTC)
    with site.sessions.begin() as session:
        jobs.claim(session, job, 1, "w", now, now + DAY)
        jobs.append_event(session, job, 1, EventType.LOG, {"level": "info", "message": "secret"}, now)
        for name, kind, content in files:
            path = site.data / "file"
            path.write_bytes(content)
            with path.open("rb") as file:
                sha256, size = site.storage.store_file(file, site.project)
            names = {"name": name, "kind": kind, "format": "x", "sha256": sha256, "size_bytes": size}
            ids = {"id": new_id(Prefix.ARTIFACT), "project_id": site.project, "job_id": job}
            artifacts.add(session, ArtifactRow(**names, **ids, created_at=now))
        jobs.finish(session, job, 1, JobState.SUCCEEDED, None, None, now)
    return job


def collect(site, days, **settings):
    given = Settings(data=site.data, **settings)
    return Collector(site.sessions, site.storage, given, datetime.now(UTC) + days * DAY).collect().as_json()


def told(site):
    """Collect now, by the operator's command."""
    environment = {**os.environ, "WINNOW_DATA": str(site.data)}
    command = [sys.executable, "-m", "app.cli", "collect"]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


def holds(site, sha256):
    return site.storage.exists(content_key(site.project, sha256))


FILES = [("model.onnx", "model", b"small"), ("c.tar", "checkpoint", b"epoch"), ("job.log", "log", b"lines")]


def test_checkpoints_and_logs_go_when_their_time_has_come_and_models_stay(site, inputs):
    job = ended(site, inputs, FILES)
    assert collect(site, 6) == NOTHING
    assert collect(site, 8) == NOTHING | {"checkpoints": 1, "contents": 1, "bytes": 5}
    assert [*site.artifacts(job)] == ["job.log", "model.onnx"]
    assert collect(site, 91) == NOTHING | {"logs": 1, "contents": 1, "bytes": 5}
    assert [*site.artifacts(job)] == ["model.onnx"]
    events = site.events(job)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert "secret" not in json.dumps([event.data for event in events])


def test_a_content_that_something_else_refers_to_stays(site, inputs):
    ended(site, inputs, [("c.tar", "checkpoint", b"model")])
    assert collect(site, 8) == NOTHING | {"checkpoints": 1}
    assert holds(site, inputs[0].sha256)


def test_inputs_expire_only_where_the_operator_says_so_and_no_job_needs_them(site, inputs):
    ended(site, inputs, [])
    path = site.data / "unused.pt2"
    path.write_bytes(b"unused")
    unused = site.add_upload(ModelRow, path)
    assert collect(site, 1000)["inputs"] == 0
    assert collect(site, 4, input_days=5)["inputs"] == 0
    waiting = site.submit(*inputs)
    assert collect(site, 6, input_days=5)["inputs"] == 0
    site.cancel(waiting)
    assert collect(site, 6, input_days=5) == NOTHING | {"inputs": 2, "contents": 2, "bytes": 9}
    model = site.upload(ModelRow, inputs[0].id)
    assert (model.state, model.problem["code"]) == ("rejected", "input_expired")
    assert not holds(site, model.sha256)
    assert site.upload(ModelRow, unused.id).state == "ready"
    assert holds(site, unused.sha256)


def test_a_teacher_expires_only_once_no_job_that_names_it_needs_it(site, inputs):
    path = site.data / "t.pt2"
    path.write_bytes(b"teacher")
    teacher = site.add_upload(ModelRow, path)
    job, now = site.submit(*inputs, recipe=[{"method": "distill", "teacher": teacher.id}]), datetime.now(UTC)
    collect(site, 40, input_days=30)
    assert site.upload(ModelRow, teacher.id).state == "ready"
    with site.sessions.begin() as session:
        jobs.claim(session, job, 1, "w", now, now + DAY)
        jobs.finish(session, job, 1, JobState.SUCCEEDED, None, None, now)
    collect(site, 20, input_days=30)
    assert site.upload(ModelRow, teacher.id).state == "ready"
    collect(site, 40, input_days=30)
    assert site.upload(ModelRow, teacher.id).state == "rejected"
    assert not holds(site, teacher.sha256)


def test_contents_that_a_killed_process_left_go_once_they_are_old(site, inputs):
    path = site.data / "orphan"
    path.write_bytes(b"nobody's")
    with path.open("rb") as file:
        orphan, _ = site.storage.store_file(file, site.project)
    assert collect(site, 0)["contents"] == 0
    for file in (site.data / "objects").rglob("*"):
        os.utime(file, (time.time() - 7200,) * 2)
    assert told(site) == NOTHING | {"contents": 1, "bytes": 8}
    assert not holds(site, orphan)
    assert all(holds(site, row.sha256) for row in inputs)


def test_a_collection_looks_at_many_contents_at_once_and_leaves_alone_what_is_none(site, inputs):
    for number in range(30):
        path = site.data / "net.pt2"
        path.write_bytes(b"net %d" % number)
        site.add_upload(ModelRow, path)
    strange = [site.data / "objects" / "projects" / name for name in (".DS_Store", f"{site.project}/notes.txt")]
    for path in strange:
        path.write_bytes(b"not ours")
    for file in (site.data / "objects").rglob("*"):
        os.utime(file, (time.time() - 7200,) * 2)
    begun = []
    event.listen(site.db, "begin", begun.append)
    assert collect(site, 0) == NOTHING
    assert len(begun) < 10
    assert all(path.exists() for path in strange)
    assert all(holds(site, row.sha256) for row in inputs)


STORE_FOR_EVER = """
import sys
from app.storage import Storage, content_key
import obstore
def pieces():
    while True:
        yield bytes(1 << 20)
        print(flush=True)
storage = Storage(sys.argv[1])
obstore.put(storage.store, content_key(sys.argv[2], "0" * 64), pieces(), chunk_size=1 << 20, max_concurrency=1)
"""


def test_what_a_process_killed_in_the_midst_of_storing_left_goes_after_a_day(site, inputs):
    objects = site.data / "objects"
    before = {*objects.rglob("*")}
    command = [sys.executable, "-c", STORE_FOR_EVER, objects.as_uri(), site.project]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for _ in range(3):
            process.stdout.readline()
        process.kill()
    (left,) = {path for path in objects.rglob("*") if path.is_file()} - before
    size = left.stat().st_size
    assert size
    # A stalled upload is no older than its last byte.
    assert told(site) == NOTHING
    os.utime(left, (time.time() - 90_000,) * 2)
    assert told(site) == NOTHING | {"unfinished": 1, "bytes": size}
    assert {*objects.rglob("*")} == before
    assert all(holds(site, row.sha256) for row in inputs)
