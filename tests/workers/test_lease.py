import subprocess
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from app.db import jobs
from app.db.tables import DatasetRow, ModelRow, OutboxRow
from app.services import recovery
from app.storage import Storage, content_key
from tests.workers.site import LIMITS, until
from tests.workers.test_runner import SLEEPER, ended, in_thread
from workers.isolation.backends import probe
from workers.runner import run_job
from workers.sandbox import Sandbox
from workers.workplace import Timing

# Its lease is a minute: a worker that stalls for longer than it has one gives its job up.
QUICK = Timing(checkpoint_seconds=0.05, retry_delay_seconds=0)
RESUMER = """
import time
path = "checkpoints/epoch"
epoch = int(open(path).read()) if os.path.exists(path) else 0
print(f"from {epoch}")
while epoch < 6:
    epoch += 1
    open(path + ".part", "w").write(str(epoch))
    os.replace(path + ".part", path)
    say(type="metric", data={"name": "loss", "step": epoch, "value": 0.5})
    if epoch == STOP_AT:
        time.sleep(0.6)
        os.abort()
open(out + "/model.onnx", "w").write(f"after {epoch}")
say(type="artifact", name="model.onnx", kind="model", format="onnx")
say(type="done")
"""


def place(site, body):
    return replace(site.workplace(body), timing=QUICK)


def reap(site, later=0.0):
    return recovery.reap(site.sessions, site.sessions, datetime.now(UTC) + timedelta(seconds=later))


def states(site, job_id):
    return [event.data["state"] for event in site.events(job_id) if event.type == "state"]


def test_a_lease_is_renewed_for_as_long_as_the_job_runs(site, job_id):
    thread = in_thread(replace(site.workplace(SLEEPER), timing=Timing(lease_seconds=8)), job_id)
    until(lambda: site.job(job_id).stage == "distilling")
    first = site.job(job_id).lease_expires_at
    until(lambda: site.job(job_id).lease_expires_at > first)
    # As if this were when the first one runs out.
    assert recovery.reap(site.sessions, site.sessions, first + timedelta(milliseconds=1)) == 0
    site.cancel(job_id)
    ended(thread)
    assert site.job(job_id).lease_expires_at is None


def test_a_job_whose_worker_died_is_queued_again_and_at_last_fails(site, job_id):
    workplace = place(site, "os.abort()")
    for attempt in (1, 2, 3, 4):
        with site.sessions.begin() as session:
            now = datetime.now(UTC)
            assert jobs.claim(session, job_id, attempt, "dead", now, now + timedelta(minutes=1))
        assert reap(site) == 0
        assert reap(site, later=61) == 1
    job = site.job(job_id)
    assert (job.state, job.failure["code"], job.failure["class"]) == ("failed", "worker_lost", "transient")
    run_job(workplace, job_id, 4)
    assert states(site, job_id) == ["queued", "running"] * 4 + ["failed"]


def test_a_job_that_was_being_cancelled_when_its_worker_died_ends_cancelled(site, job_id):
    with site.sessions.begin() as session:
        now = datetime.now(UTC)
        jobs.claim(session, job_id, 1, "dead", now, now)
    site.cancel(job_id)
    assert reap(site, later=1) == 1
    assert (site.job(job_id).state, site.job(job_id).failure) == ("cancelled", None)


def test_a_worker_that_lost_its_lease_stops_and_changes_nothing(site, job_id):
    thread = in_thread(place(site, SLEEPER), job_id)
    until(lambda: site.job(job_id).stage == "distilling")
    assert reap(site, later=61) == 1
    ended(thread)
    assert site.nothing_runs()
    job = site.job(job_id)
    assert (job.state, job.attempt, job.retries) == ("queued", 2, 1)
    assert site.artifacts(job_id) == {}
    with site.sessions() as session:
        assert session.scalars(select(OutboxRow.payload)).all()[-1] == {"job_id": job_id, "attempt": 2}


def test_a_database_that_is_away_for_less_than_a_lease_costs_nothing(site, job_id):
    body = """
    import time
    open("started", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.05)
    say(type="done")
    """
    thread = in_thread(site.workplace(body), job_id)
    until(lambda: list(site.data.glob("scratch/*/started")))
    (started,) = site.data.glob("scratch/*/started")
    # SQLite's way of being away: the file is there, the table is not.
    with site.sessions.begin() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO away"))
    time.sleep(1)
    started.with_name("go").touch()
    assert site.nothing_runs()
    time.sleep(1)
    assert thread.is_alive()
    with site.sessions.begin() as session:
        session.execute(text("ALTER TABLE away RENAME TO jobs"))
    ended(thread)
    assert states(site, job_id) == ["queued", "running", "succeeded"]


def test_an_attempt_goes_on_from_the_checkpoint_of_the_one_before(site, job_id):
    run_job(place(site, RESUMER.replace("STOP_AT", "4")), job_id, 1)
    assert site.artifacts(job_id)["checkpoint.tar"].kind == "checkpoint"
    assert site.job(job_id).attempt == 2
    spare = content_key(site.project, site.artifacts(job_id)["checkpoint.tar"].sha256)
    run_job(place(site, RESUMER.replace("STOP_AT", "0")), job_id, 2)
    assert site.job(job_id).state == "succeeded"
    steps = [event.data["step"] for event in site.events(job_id) if event.type == "metric"]
    assert steps == [1, 2, 3, 4, 5, 6]
    # Only what the user is to have stays.
    assert set(site.artifacts(job_id)) == {"model.onnx", "job.log"}
    assert not site.storage.exists(spare)


def test_a_worker_that_has_to_end_leaves_the_last_checkpoint(site, job_id):
    body = 'import time\nopen("checkpoints/epoch", "w").write("3")\n' + SLEEPER
    workplace = replace(site.workplace(body), timing=Timing(checkpoint_seconds=600))
    thread = in_thread(workplace, job_id)
    until(lambda: site.job(job_id).stage == "distilling")
    workplace.stopping.set()
    ended(thread)
    job = site.job(job_id)
    assert (job.state, job.attempt, job.retries) == ("queued", 1, 0)
    run_job(place(site, RESUMER.replace("STOP_AT", "0")), job_id, 1)
    assert [event.data["step"] for event in site.events(job_id) if event.type == "metric"] == [4, 5, 6]


def test_a_link_among_the_checkpoints_is_not_followed(site, job_id, tmp_path):
    (tmp_path / "secret").write_text("key")
    secret = str(tmp_path / "secret")
    body = f'os.symlink({secret!r}, "checkpoints/a"); open("checkpoints/b", "w").write("b"); os.abort()'
    run_job(place(site, body), job_id, 1)
    run_job(place(site, 'print(os.listdir("checkpoints")); say(type="done")'), job_id, 2)
    lines = [event.data["message"] for event in site.events(job_id) if event.type == "log"]
    assert lines[-1] == "['b']"


@pytest.mark.parametrize("name", ["checkpoint.tar", "job.log"])
def test_no_child_may_announce_what_is_the_supervisors(site, job_id, name):
    body = f"""
    open(out + "/{name}", "w").write("x")
    say(type="artifact", name="{name}", kind="checkpoint", format="tar")
    say(type="done")
    """
    run_job(place(site, body), job_id, 1)
    assert site.job(job_id).attempt == 2
    assert states(site, job_id)[-1] == "queued"
    assert "checkpoint.tar" not in site.artifacts(job_id)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_transient_and_leaves_no_half_artifact(site, job_id, small_disk):
    body = """
    open(out + "/model.onnx", "wb").write(os.urandom(3 << 20))
    say(type="artifact", name="model.onnx", kind="model", format="onnx")
    say(type="done")
    """
    workplace = replace(place(site, body), storage=_small(site, small_disk))
    for attempt in (1, 2, 3, 4):
        run_job(workplace, job_id, attempt)
    job = site.job(job_id)
    assert (job.state, job.failure["code"], job.failure["class"]) == ("failed", "storage_full", "transient")
    reasons = [event.data.get("reason") for event in site.events(job_id)]
    assert reasons.count("storage_full") == 3
    assert set(site.artifacts(job_id)) == {"job.log"}
    kept = {path.name for path in small_disk.rglob("*") if path.is_file()}
    model, dataset = site.upload(ModelRow, job.model_id), site.upload(DatasetRow, job.dataset_id)
    assert kept == {site.artifacts(job_id)["job.log"].sha256, model.sha256, dataset.sha256}


def _small(site, folder):
    storage = Storage(folder.as_uri())
    for path in (site.data / "m.pt2", site.data / "d.npz"):
        with path.open("rb") as file:
            storage.store_file(file, site.project)
    return storage


def test_a_job_that_needs_too_much_memory_is_its_users_and_the_worker_lives(site, job_id):
    body = 'import time\nheld = b"1" * (1 << 30)\ntime.sleep(60)'
    workplace = replace(place(site, body), sandbox=Sandbox(probe(), replace(LIMITS, memory_bytes=256 << 20)))
    run_job(workplace, job_id, 1)
    job = site.job(job_id)
    assert (job.state, job.failure["code"], job.failure["class"]) == ("failed", "out_of_memory", "user")
    assert site.nothing_runs()
    other = site.submit(site.upload(ModelRow, job.model_id), site.upload(DatasetRow, job.dataset_id))
    run_job(place(site, 'say(type="done")'), other, 1)
    assert site.job(other).state == "succeeded"


def test_threads_of_an_attempt_end_with_it(site, job_id):
    before = set(threading.enumerate())
    run_job(place(site, 'say(type="done")'), job_id, 1)
    assert set(threading.enumerate()) <= before
