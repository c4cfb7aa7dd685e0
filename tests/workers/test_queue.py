"""The way from the outbox to a real worker process and the real engine."""

import json
import signal
import subprocess
import sys
import time

import pytest
import redis
from sqlalchemy import select

from app.db import outbox
from app.db.tables import DatasetRow, ModelRow, OutboxRow
from app.domain.model import ObjectState
from app.embedded import clear_stale_broker
from tests.compression.digits import write_digits, write_network
from tests.workers.queue import worker_command
from tests.workers.site import until
from tests.workers.walls import PROMPT_SECONDS

ENGINE_SECONDS = 120


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "digits.npz")
    write_network(folder / "digits.pt2", epochs=3)
    (folder / "broken.pt2").write_bytes((folder / "digits.pt2").read_bytes()[:1000])
    return folder


def inspect(queue, kind, row):
    with queue.site.sessions.begin() as session:
        outbox.add(session, "winnow.inspect", "inspect", 5, {"kind": kind, "id": row.id})
    queue.relay.wake()


def inspected(queue, *rows):
    def all_done():
        return all(queue.site.upload(type(row), row.id).state != "validating" for row in rows)

    until(all_done, ENGINE_SECONDS)
    return [queue.site.upload(type(row), row.id) for row in rows]


def test_uploads_are_inspected_and_two_jobs_at_once_both_finish(queue, files):
    site = queue.site
    model = site.add_upload(ModelRow, files / "digits.pt2", ObjectState.VALIDATING)
    data = site.add_upload(DatasetRow, files / "digits.npz", ObjectState.VALIDATING)
    broken = site.add_upload(ModelRow, files / "broken.pt2", ObjectState.VALIDATING)
    queue.start_worker("inspect")
    queue.start_worker("cpu")
    for kind, row in (("model", model), ("dataset", data), ("model", broken)):
        inspect(queue, kind, row)
    model, data, broken = inspected(queue, model, data, broken)
    assert (model.state, data.state, broken.state) == ("ready", "ready", "rejected"), (model.problem, data.problem)
    assert broken.problem["class"] == "user"
    until(lambda: not site.storage.exists(f"projects/{site.project}/{broken.sha256}"))

    jobs = [site.submit(model, data, seed=seed) for seed in (0, 1)]
    queue.relay.wake()
    until(lambda: all(site.job(job).ended_at for job in jobs), ENGINE_SECONDS)
    for job in map(site.job, jobs):
        assert job.state == "succeeded", job.failure
        assert job.summary["size_ratio"] > 1
        assert 0 <= job.summary["accuracy"] <= 1


def test_a_worker_asked_to_end_mid_job_leaves_no_process_and_the_job_goes_on_elsewhere(queue, files):
    site = queue.site
    model, data = site.add_upload(ModelRow, files / "digits.pt2"), site.add_upload(DatasetRow, files / "digits.npz")
    job = site.submit(model, data)
    first = queue.start_worker("cpu")
    until(lambda: site.job(job).stage, ENGINE_SECONDS)
    first.send_signal(signal.SIGTERM)
    assert first.wait(PROMPT_SECONDS) == 0
    assert site.nothing_runs()
    assert site.job(job).state == "queued"
    assert queue.live() == []
    queue.start_worker("cpu")
    until(lambda: site.job(job).ended_at, ENGINE_SECONDS)
    assert site.job(job).state == "succeeded", site.job(job).failure


def test_messages_wait_in_the_outbox_while_the_broker_is_away(queue):
    def send():
        with queue.site.sessions.begin() as session:
            outbox.add(session, "winnow.inspect", "inspect", 5, {"kind": "model", "id": "mdl_none"})
        queue.relay.wake()

    def waiting():
        with queue.site.sessions() as session:
            return len(session.scalars(select(OutboxRow)).all())

    send()  # over the connection that is then lost
    until(lambda: not waiting())
    queue.broker.terminate()
    queue.broker.wait(60)
    send()
    time.sleep(1.5)
    assert waiting() == 1
    began = time.monotonic()
    with queue.site.sessions.begin() as session:
        outbox.count(session)
    assert time.monotonic() - began < 10  # the database is not held meanwhile
    clear_stale_broker(queue.path)
    queue.start_broker()
    until(lambda: not waiting())


def test_what_is_urgent_is_served_first_and_what_is_inspected_never_waits_for_a_job(queue):
    with queue.site.sessions.begin() as session:
        for priority in (0, 9, 5):
            outbox.add(session, "winnow.run_job", "cpu", priority, {"job_id": f"job_{priority}", "attempt": 1})
        outbox.add(session, "winnow.inspect", "inspect", 5, {"kind": "model", "id": "mdl_none"})
    queue.relay.wake()

    def waiting(name):
        with redis.Redis(unix_socket_path=str(queue.path)) as client:
            return sum(client.llen(key) for key in client.keys(f"{name}*"))

    until(lambda: (waiting("cpu"), waiting("inspect")) == (3, 1))
    assert [queue.relay.waiting(name) for name in ("cpu", "inspect", "gpu")] == [3, 1, 0]
    log = queue.site.data / "worker.log"
    with log.open("wb") as output:
        queue.start(worker_command("cpu"), output)
    until(lambda: log.read_text().count("nothing_to_claim") == 3)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    served = [(line["job_id"], line["attempt"]) for line in lines if line["event"] == "nothing_to_claim"]
    assert served == [("job_9", 1), ("job_5", 1), ("job_0", 1)]
    assert waiting("inspect") == 1


@pytest.mark.parametrize("module", ["workers.tasks", "app.cli", "app.queue", "app.embedded"])
def test_no_parent_loads_numerics(module):
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not {"torch", "numpy", "onnx", "onnxruntime"} & set(json.loads(answer.stdout))
