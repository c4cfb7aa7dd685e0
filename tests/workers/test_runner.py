import threading
import time

import pytest
from sqlalchemy import select

from app.db import artifacts, outbox
from app.db.tables import DatasetRow, ModelRow, OutboxRow
from app.storage import content_key
from tests.workers.site import RECIPE, until
from tests.workers.walls import PROMPT_SECONDS
from workers.runner import run_job
from workers.sandbox import POLL_SECONDS


def test_a_job_reads_its_inputs_and_leaves_events_and_artifacts(site, job_id):
    body = """
    assert open("model.pt2").read() + open("data.npz").read() == "modeldata"
    say(type="stage", data={"stage": "baseline"})
    print("a line")
    say(type="progress", data={"fraction": 0.5, "message": "half"})
    open(out + "/model.onnx", "w").write("small")
    say(type="artifact", name="model.onnx", kind="model", format="onnx")
    say(type="done")
    """
    run_job(site.workplace(body), job_id, 1)
    job, events = site.job(job_id), site.events(job_id)
    assert (job.state, job.progress, job.worker, job.failure) == ("succeeded", 1.0, "toy@here", None)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert [event.data["state"] for event in events if event.type == "state"] == ["queued", "running", "succeeded"]
    assert {"stage", "progress", "log"} < {event.type for event in events}
    assert set(site.artifacts(job_id)) == {"model.onnx", "job.log"}
    assert site.storage.read_bytes(content_key(site.project, site.artifacts(job_id)["model.onnx"].sha256)) == b"small"
    assert b"a line" in site.storage.read_bytes(content_key(site.project, site.artifacts(job_id)["job.log"].sha256))
    assert not any((site.data / "scratch").iterdir())


@pytest.fixture
def taking(site):
    """Give an analysis that has ended with a table, and a job that takes it."""
    uploads = site.add_inputs()
    analysis = site.submit(*uploads, recipe=[{"method": "prune", "analyze": True}])
    body = """
    open(out + "/sensitivity.json", "w").write("table")
    say(type="artifact", name="sensitivity.json", kind="report", format="json")
    say(type="done")
    """
    run_job(site.workplace(body), analysis, 1)
    return analysis, site.submit(*uploads, recipe=[RECIPE[0] | {"sensitivity": analysis}])


def test_a_table_that_a_step_takes_is_laid_down_for_the_child(site, taking):
    analysis, job_id = taking
    body = f"""
    import json
    path = json.load(open("task.json"))["sensitivities"][{analysis!r}]
    assert open(path).read() == "table"
    say(type="done")
    """
    run_job(site.workplace(body), job_id, 1)
    assert site.job(job_id).state == "succeeded"


def test_a_table_that_is_gone_fails_the_job_by_name(site, taking):
    analysis, job_id = taking
    with site.sessions.begin() as session:
        artifacts.delete(session, artifacts.by_name(session, analysis, "sensitivity.json"))
    run_job(site.workplace('say(type="done")'), job_id, 1)
    job = site.job(job_id)
    assert (job.state, job.failure["code"], job.failure["class"]) == ("failed", "no_sensitivity", "user")
    assert analysis in job.failure["detail"]


@pytest.fixture
def taught(site):
    """Give a job with a teacher of its own, and that teacher."""
    path = site.data / "t.pt2"
    path.write_bytes(b"teacher")
    teacher = site.add_upload(ModelRow, path)
    return site.submit(*site.add_inputs(), recipe=[{"method": "distill", "teacher": teacher.id}]), teacher


def test_a_model_that_a_step_names_is_laid_down_for_the_child(site, taught):
    job_id, teacher = taught
    with site.sessions.begin() as session:
        session.get(ModelRow, teacher.id).facts = {"way": 2}
    body = f"""
    import json
    assert json.load(open("task.json"))["model_way"] is None
    file = json.load(open("task.json"))["models"][{teacher.id!r}]
    assert open(file["path"]).read() == "teacher"
    assert (file["format"], file["way"]) == ("pt2", 2)
    say(type="done")
    """
    run_job(site.workplace(body), job_id, 1)
    assert site.job(job_id).state == "succeeded"


def test_a_model_that_is_gone_fails_the_job_by_name(site, taught):
    job_id, teacher = taught
    with site.sessions.begin() as session:
        session.delete(session.get(ModelRow, teacher.id))
    run_job(site.workplace('say(type="done")'), job_id, 1)
    job = site.job(job_id)
    assert (job.state, job.failure["code"], job.failure["class"]) == ("failed", "not_found", "user")
    assert teacher.id in job.failure["detail"]


def test_a_message_delivered_twice_does_nothing(site, job_id):
    workplace = site.workplace('say(type="done")')
    run_job(workplace, job_id, 1)
    before = len(site.events(job_id))
    run_job(workplace, job_id, 1)
    assert len(site.events(job_id)) == before


def test_the_engines_own_failure_is_kept_and_so_are_its_artifacts(site, job_id):
    body = """
    open(out + "/candidate.onnx", "w").write("x")
    say(type="artifact", name="candidate.onnx", kind="checkpoint", format="onnx")
    failure = {"code": "objective_missed", "class": "user", "title": "t", "detail": "d", "hint": None}
    say(type="failure", failure=failure)
    """
    run_job(site.workplace(body), job_id, 1)
    assert (site.job(job_id).state, site.job(job_id).failure["code"]) == ("failed", "objective_missed")
    assert "candidate.onnx" in site.artifacts(job_id)


@pytest.mark.parametrize(
    "body",
    [
        'print("last words"); sys.exit(3)',
        "os.abort()",
        'os.write(int(sys.argv[-1]), b"nonsense\\n"); say(type="done")',
        'say(type="progress", data={"fraction": 7, "message": ""}); say(type="done")',
        'say(type="artifact", name="../../winnow.db", kind="model", format="onnx"); say(type="done")',
        """
        os.symlink("/etc/passwd", out + "/m")
        say(type="artifact", name="m", kind="model", format="onnx")
        say(type="done")
        """,
    ],
)
def test_a_child_that_dies_or_lies_is_tried_again_three_times_and_no_more(site, job_id, body):
    workplace = site.workplace(body)
    for attempt in (1, 2, 3):
        run_job(workplace, job_id, attempt)
        job = site.job(job_id)
        assert (job.state, job.attempt, job.retries, job.failure) == ("queued", attempt + 1, attempt, None)
    run_job(workplace, job_id, 4)
    job = site.job(job_id)
    assert (job.state, job.failure["code"], job.failure["class"]) == ("failed", "child_crashed", "transient")
    assert set(site.artifacts(job_id)) == {"job.log"}
    with site.sessions() as session:
        rows = session.scalars(select(OutboxRow).order_by(OutboxRow.id)).all()
    assert [row.payload["attempt"] for row in rows] == [1, 2, 3, 4]
    delays = [round((row.due_at - row.created_at).total_seconds()) for row in rows]
    assert delays == [0, 10, 20, 40]  # so that what is at fault may mend
    events = site.events(job_id)
    assert [event.id for event in events] == list(range(1, len(events) + 1))


def in_thread(workplace, job_id):
    # A daemon, for one that hangs is not to hold up the end of all tests.
    thread = threading.Thread(target=run_job, args=(workplace, job_id, 1), daemon=True)
    thread.start()
    return thread


def ended(thread, seconds=60):
    """Wait for a worker's thread, which has been given a reason to end."""
    thread.join(seconds)
    assert not thread.is_alive()


SLEEPER = 'import time\nsay(type="stage", data={"stage": "distilling"})\ntime.sleep(600)'


def test_a_running_job_is_cancelled_at_the_next_look(site, job_id):
    assert POLL_SECONDS < 1
    thread = in_thread(site.workplace(SLEEPER), job_id)
    until(lambda: site.job(job_id).stage == "distilling")
    began = time.monotonic()
    site.cancel(job_id)
    ended(thread)
    assert time.monotonic() - began < PROMPT_SECONDS
    assert site.job(job_id).state == "cancelled"
    assert site.nothing_runs()


def test_a_job_over_its_time_is_ended(site, tmp_path, job_id):
    row = site.job(job_id)
    with site.sessions.begin() as session:
        session.merge(row).spec = {**row.spec, "time_limit_seconds": 1}
    run_job(site.workplace(SLEEPER), job_id, 1)
    job = site.job(job_id)
    assert (job.state, job.failure["code"]) == ("timed_out", "time_limit_exceeded")
    assert site.nothing_runs()
    other = site.submit(site.upload(ModelRow, row.model_id), site.upload(DatasetRow, row.dataset_id))
    run_job(site.workplace('say(type="done")'), other, 1)
    assert site.job(other).state == "succeeded"


def test_a_worker_that_has_to_end_puts_its_job_back(site, job_id):
    with site.sessions.begin() as session:
        outbox.take(session, 10)
    workplace = site.workplace(SLEEPER)
    thread = in_thread(workplace, job_id)
    until(lambda: site.job(job_id).stage == "distilling")
    workplace.stopping.set()
    ended(thread)
    job = site.job(job_id)
    assert (job.state, job.attempt, job.stage) == ("queued", 1, None)
    with site.sessions() as session:
        assert session.scalars(select(OutboxRow.payload)).all() == [{"job_id": job_id, "attempt": 1}]
    assert site.nothing_runs()
    run_job(site.workplace('say(type="done")'), job_id, 1)
    assert site.job(job_id).state == "succeeded"
