"""What a child does to its own files, so that the supervisor might read or keep others."""

import os
import tarfile
import threading
from dataclasses import replace

import pytest

from app.db import artifacts
from app.db.tables import DatasetRow, ModelRow
from app.domain.model import ObjectState
from app.storage import content_key
from tests.workers.site import LIMITS
from workers import outputs
from workers.deliveries import Announcements
from workers.inspection import inspect
from workers.isolation.backends import probe
from workers.runner import run_job
from workers.sandbox import ProtocolBreach, Sandbox
from workers.workplace import Timing

pytestmark = pytest.mark.timeout(60)

SECRET = b"what only the supervisor may read"
QUICK = Timing(checkpoint_seconds=0.05, retry_delay_seconds=0)
ANNOUNCE = 'say(type="artifact", name="model.onnx", kind="model", format="onnx")'


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return str(path)


def place(site, body, disk_bytes=LIMITS.disk_bytes):
    limits = replace(LIMITS, disk_bytes=disk_bytes)
    return replace(site.workplace(body), timing=QUICK, sandbox=Sandbox(probe(), limits))


def reasons(site, job_id):
    return [event.data.get("reason") for event in site.events(job_id) if event.type == "state"]


def kept(site, job_id):
    """Give what is stored of the job, by name."""
    return {
        name: site.storage.read_bytes(content_key(site.project, row.sha256))
        for name, row in site.artifacts(job_id).items()
    }


def make_link(path, target):
    path.symlink_to(target)


def make_second_name(path, target):
    path.hardlink_to(target)


def make_fifo(path, _):
    os.mkfifo(path)


def make_folder(path, _):
    path.mkdir()


@pytest.mark.parametrize("make", [make_link, make_second_name, make_fifo, make_folder])
def test_only_a_regular_file_of_its_own_is_opened(tmp_path, secret, make):
    out = tmp_path / "out"
    out.mkdir()
    make(out / "model.onnx", secret)
    with outputs.opened_folder(out) as folder, pytest.raises(ProtocolBreach, match="model"):
        outputs.open_file("model.onnx", folder)


def test_a_folder_that_became_a_link_is_not_entered(tmp_path, secret):
    (tmp_path / "out").symlink_to(tmp_path)
    with pytest.raises(ProtocolBreach, match="no folder"):
        outputs.read_file(tmp_path / "out", "secret", 100)


def test_a_file_swapped_after_it_was_opened_is_still_the_one_that_was_opened(tmp_path, secret):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    with outputs.opened_folder(tmp_path) as folder, outputs.open_file(path.name, folder) as file:
        path.unlink()
        path.symlink_to(secret)
        assert file.read() == b"weights"


def test_a_small_file_is_read_to_its_bound_and_no_further(tmp_path):
    (tmp_path / "facts.json").write_bytes(b"12345")
    assert outputs.read_file(tmp_path, "facts.json", 5) == b"12345"
    assert outputs.read_file(tmp_path, "none.json", 5) is None
    with pytest.raises(ProtocolBreach, match="more than 4 bytes"):
        outputs.read_file(tmp_path, "facts.json", 4)


def test_a_file_swapped_for_a_link_between_its_announcement_and_its_reading_is_never_followed(site, job_id, secret):
    body = f"""
    import itertools, threading, time
    path, spare = out + "/model.onnx", out + "/spare"
    def swap():
        for turn in itertools.count():
            if turn % 2:
                os.symlink({secret!r}, spare)
            else:
                open(spare, "w").write("weights")
            os.replace(spare, path)
    open(path, "w").write("weights")
    threading.Thread(target=swap, daemon=True).start()
    for _ in range(40):
        {ANNOUNCE}
        time.sleep(0.1)
    say(type="done")
    """
    run_job(place(site, body), job_id, 1)
    assert reasons(site, job_id) == [None, None, "child_crashed"]
    assert SECRET not in kept(site, job_id).values()
    assert set(kept(site, job_id)) <= {"model.onnx", "job.log"}


def test_a_file_that_is_still_written_to_is_no_artifact(site, job_id):
    body = f"""
    import threading, time
    file = open(out + "/model.onnx", "ab", buffering=0)
    file.truncate(32 << 20)  # which takes longer to store than anybody has a core to himself
    def write():
        while True:
            file.write(b"x")
    threading.Thread(target=write, daemon=True).start()
    for _ in range(20):
        {ANNOUNCE}
        time.sleep(0.1)
    say(type="done")
    """
    run_job(place(site, body), job_id, 1)
    assert reasons(site, job_id) == [None, None, "child_crashed"]
    for row in site.artifacts(job_id).values():
        assert len(site.storage.read_bytes(content_key(site.project, row.sha256))) == row.size_bytes


def test_a_log_that_the_child_made_a_link_is_not_what_is_kept(site, job_id, secret):
    body = f"""
    import glob
    print("a line")
    for name in glob.glob("*.log"):
        os.unlink(name)
    os.symlink({secret!r}, "job.log")
    say(type="done")
    """
    run_job(place(site, body), job_id, 1)
    assert site.job(job_id).state == "succeeded"
    assert kept(site, job_id) == {"job.log": b"a line\n"}


@pytest.mark.parametrize(
    "report",
    [
        'os.symlink("/etc/passwd", out + "/report.json")',
        'open(out + "/report.json", "w").write("[" * 100_000)',
        'open(out + "/report.json", "w").write("{}")',
        'os.rename(out, out + "side"); os.symlink(out + "side", out)',
    ],
)
def test_a_report_that_is_none_fails_its_attempt_and_no_more(site, job_id, report):
    run_job(place(site, f'{report}; say(type="done")'), job_id, 1)
    assert reasons(site, job_id) == [None, None, "child_crashed"]
    run_job(place(site, 'say(type="done")'), job_id, 2)
    assert site.job(job_id).state == "succeeded"


def test_files_full_of_holes_are_counted_by_what_they_would_be_when_stored(site, job_id):
    body = """
    for name in ("a", "b"):
        open(out + "/" + name, "wb").truncate(3 << 20)
        say(type="artifact", name=name, kind="model", format="onnx")
    say(type="done")
    """
    run_job(place(site, body, disk_bytes=4 << 20), job_id, 1)
    job = site.job(job_id)
    assert (job.state, job.failure["code"], job.failure["class"]) == ("failed", "resource_limit_exceeded", "user")
    assert set(site.artifacts(job_id)) == {"a", "job.log"}


def test_too_many_artifacts_are_a_breach(tmp_path):
    announcements = Announcements(tmp_path, 1 << 20)
    for number in range(201):
        (tmp_path / f"model-{number}").write_text("same")

    def announce(number):
        with announcements.opened(f"model-{number}") as file:
            assert file.read() == b"same"

    for number in [*range(200), 0]:  # one of them again, as a candidate that was replaced
        announce(number)
    with pytest.raises(ProtocolBreach, match="more than 200"):
        announce(200)


@pytest.mark.parametrize(
    "harm",
    [
        'os.rename("checkpoints", "elsewhere"); os.symlink(SECRETS, "checkpoints")',
        'os.mkdir("checkpoints/inner"); os.symlink(SECRETS, "checkpoints/inner/link")',
        'os.rename("checkpoints", "elsewhere"); open("checkpoints", "w").close()',
        'open("checkpoints/holes", "wb").truncate(3 << 20); open("checkpoints/more", "wb").truncate(3 << 20)',
    ],
)
def test_no_harm_to_the_checkpoints_keeps_what_is_not_theirs_or_ends_the_worker(site, job_id, secret, harm):
    body = f"""
    import time
    SECRETS = {secret!r}.rpartition("/")[0]
    {harm}
    time.sleep(0.5)
    os.abort()
    """
    before = set(threading.enumerate())
    run_job(place(site, body, disk_bytes=4 << 20), job_id, 1)
    assert reasons(site, job_id) == [None, None, "child_crashed"]
    assert "checkpoint.tar" not in site.artifacts(job_id)
    assert set(threading.enumerate()) <= before


def test_a_checkpoint_holds_the_files_of_its_folder_alone(site, job_id, secret, tmp_path):
    body = f"""
    open("checkpoints/epoch", "w").write("3")
    os.symlink({secret!r}, "checkpoints/link")
    os.mkdir("checkpoints/inner")
    os.abort()
    """
    run_job(place(site, body), job_id, 1)
    with site.sessions() as session:
        row = artifacts.by_name(session, job_id, "checkpoint.tar")
    site.storage.fetch_to(content_key(site.project, row.sha256), tmp_path / "found.tar")
    with tarfile.open(tmp_path / "found.tar") as archive:
        assert archive.getnames() == ["epoch"]


@pytest.mark.parametrize(
    "facts",
    [
        'os.symlink("/etc/passwd", out + "/facts.json")',
        'open(out + "/facts.json", "w").write("[" * 100_000)',
        'open(out + "/facts.json", "wb").truncate(17 << 20)',
        "pass",
    ],
)
def test_facts_that_are_none_reject_the_upload_and_the_worker_goes_on(site, tmp_path, facts):
    path = tmp_path / "m.pt2"
    path.write_bytes(b"model")
    row = site.add_upload(ModelRow, path, ObjectState.VALIDATING)
    inspect(place(site, f'{facts}\nsay(type="done")'), "model", row.id)
    model = site.upload(ModelRow, row.id)
    assert (model.state, model.problem["code"]) == ("rejected", "child_crashed")
    assert site.upload(DatasetRow, row.id) is None
