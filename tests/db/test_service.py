"""The repositories as the service uses them, on SQLite and PostgreSQL alike."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, event, text
from sqlalchemy.exc import OperationalError

from app.db import jobs, outbox, projects
from app.db.engine import make_sessions
from app.db.places import queue_positions
from app.db.tables import OutboxRow, ProjectRow
from app.domain.errors import WorkerLost
from app.domain.ids import Prefix, new_id
from app.domain.job import EventType, JobState
from tests.factories import PRUNE, pt2
from tests.serving import problem

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = NOW + timedelta(minutes=1)


def test_the_life_of_a_job(project):
    model, dataset = project.add_model(), project.add_dataset()
    job = project.queued(model_id=model, dataset_id=dataset, labels={"team": "vision"})
    project.claim(job)
    project.report_event(job, "progress", {"fraction": 0.5, "message": "half"})
    artifact = project.add_artifact(job, "model.onnx", b"small")
    project.finish(job, summary={"size_ratio": 8.0})
    item = project.client.get(f"jobs/{job}", params={"wait": 5}).json()
    assert (item["state"], item["progress"], item["summary"]) == ("succeeded", 1.0, {"size_ratio": 8.0})
    for time_ in ("created_at", "started_at", "ended_at"):
        assert item[time_].endswith("Z")
    events = project.client.get(f"jobs/{job}/events").json()["items"]
    assert [event["id"] for event in events] == [1, 2, 3, 4]
    assert project.client.get("jobs", params={"label": "team:vision"}).json()["items"] == [item]
    assert project.client.get(f"artifacts/{artifact}/content").content == b"small"
    problem(project.client.post(f"jobs/{job}:cancel"), 409, "job_ended")
    problem(project.client.delete(f"models/{model}"), 409, "in_use")
    for path in (f"jobs/{job}", f"models/{model}", f"datasets/{dataset}"):
        assert project.client.delete(path).status_code == 204
    assert project.kept()[:4] == (0, 0, 0, 0)


def test_pages_follow_each_other_without_gap_or_repetition_while_rows_come(project):
    ids = [project.upload("models", pt2()).json()["id"] for _ in range(5)]
    page = project.client.get("models", params={"limit": 2}).json()
    seen = [item["id"] for item in page["items"]]
    project.upload("models", pt2())  # newer than the cursor, so on no later page
    while page["next_cursor"]:
        page = project.client.get("models", params={"limit": 2, "cursor": page["next_cursor"]}).json()
        seen += [item["id"] for item in page["items"]]
    assert seen == ids[::-1]


@pytest.mark.parametrize("table", ["models", "jobs", "api_keys", "audit", "webhooks", "sweeps"])
def test_a_deep_page_reads_an_index_and_sorts_nothing(engine, project, table):
    last = project.queued() if table == "jobs" else project.add_model()
    query = f"SELECT * FROM {table} WHERE project_id = :project AND id < :last ORDER BY id DESC LIMIT 51"
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # so few rows are read whole otherwise
            connection.execute(text("SET LOCAL enable_bitmapscan = off"))
            connection.execute(text("SET LOCAL enable_sort = off"))
        plan = str(connection.execute(text(explain + query), {"project": project.id, "last": last}).all())
    assert f"ix_{table}_project_id_id" in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


def test_active_jobs_are_counted_by_an_index_and_no_further_than_asked(engine, sessions, project):
    for _ in range(3):
        project.queued()
    with sessions() as session:
        counts = [jobs.count_active(session, project.id, at_most=most) for most in (1, 2, 9)]
    assert counts == [1, 2, 3]
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    query = "SELECT id FROM jobs WHERE project_id = :project AND state IN ('queued', 'running', 'cancelling') LIMIT 2"
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = str(connection.execute(text(explain + query), {"project": project.id}).all())
    assert "ix_jobs_project_id_" in plan


def test_places_of_a_page_are_looked_up_by_the_ids_on_it(engine, sessions, project):
    """However long the queue is: to SQLite an index of states seems as good as one of ids, whatever stands in it."""
    if engine.dialect.name == "postgresql":
        pytest.skip("it plans by what stands in the table")
    for _ in range(30):
        project.queued()
    asked = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
    with sessions() as session:
        rows = jobs.listed(
            session, project.id, state=None, model_id=None, sweep_id=None, label=None, before=None, limit=30
        )
        assert len(queue_positions(session, rows)) == 30
    statement, values = asked[-1]
    assert "row_number" in statement
    with engine.begin() as connection:
        plan = [str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()]
    assert not [line for line in plan if "ix_jobs_state_" in line], plan


def test_a_key_from_its_first_use_to_its_last(project):
    made = project.client.post("keys", json={"name": "ci", "expires_at": "2999-01-01T00:00:00+02:00"}).json()
    assert made["expires_at"] == "2998-12-31T22:00:00Z"
    body = {"model_id": project.add_model(), "dataset_id": project.add_dataset(), "recipe": [PRUNE]}
    once = {"Idempotency-Key": "once"}
    with project.client_with(made["key"]) as client:
        first, again = (client.post("jobs", json=body, headers=once) for _ in range(2))
        assert again.content == first.content
        assert again.headers["idempotency-replayed"] == "true"
        problem(client.post("jobs", json={**body, "seed": 1}, headers=once), 422, "idempotency_key_reused")
        assert client.get("usage").json()["jobs"] == 1
        assert client.post(f"jobs/{first.json()['id']}:cancel").status_code == 202
        rotated = project.client.post(f"keys/{made['id']}:rotate").json()
        problem(client.get("usage"), 401, "unauthenticated")
    with project.client_with(rotated["key"]) as client:
        assert client.get("usage").status_code == 200
        project.client.delete(f"keys/{made['id']}")
        problem(client.get("usage"), 401, "unauthenticated")
    trail = project.client.get("audit", params={"limit": 4}).json()["items"]
    assert [item["action"] for item in trail] == ["key.revoked", "key.rotated", "job.cancelled", "key.created"]
    assert trail[2]["key_id"] == made["id"]


def test_one_of_many_claims_wins(sessions, project):
    job = project.queued()
    won, gate = [], threading.Barrier(6)
    # Of today, lest the server's housekeeper takes the job from whoever won.
    now = datetime.now(UTC)

    def claim(number):
        gate.wait()
        with sessions.begin() as session:
            if jobs.claim(session, job, 1, f"worker {number}", now, now + timedelta(hours=1)) is not None:
                won.append(f"worker {number}")

    threads = [threading.Thread(target=claim, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert project.client.get(f"jobs/{job}").json()["worker"] == won[0]


def test_a_stale_attempt_writes_nothing(sessions, project):
    job = project.queued()
    project.claim(job)
    for attempt in (0, 2):
        with sessions.begin() as session:
            assert jobs.claim(session, job, attempt, "late", NOW, LEASE) is None
            assert jobs.append_event(session, job, attempt, EventType.LOG, {"message": "late"}, NOW) is None
            assert not jobs.finish(session, job, attempt, JobState.SUCCEEDED, None, None, NOW)
            assert jobs.state_of(session, job, attempt) is None
    project.finish(job)
    with sessions.begin() as session:
        assert jobs.append_event(session, job, 1, EventType.LOG, {"message": "late"}, NOW) is None
        assert not jobs.finish(session, job, 1, JobState.FAILED, None, None, NOW)
    assert len(project.client.get(f"jobs/{job}/events").json()["items"]) == 3


def test_events_of_writers_side_by_side_have_no_gap(sessions, project):
    job = project.queued()
    project.claim(job)

    def write():
        for _ in range(10):
            with sessions.begin() as session:
                jobs.append_event(session, job, 1, EventType.LOG, {"level": "info", "message": "m"}, NOW)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = project.client.get(f"jobs/{job}/events", params={"limit": 200}).json()["items"]
    assert [event["id"] for event in events] == list(range(1, 43))


@pytest.fixture
def messages(engine):
    """Give sessions on an outbox of four messages, which no relay publishes, as there is no broker."""
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        session.execute(delete(OutboxRow))
        for number in range(4):
            outbox.add(session, "task", "cpu", 5, {"number": number})
    return sessions


def numbers(rows):
    """Give the numbers of those four, whatever the server's housekeeper asks for meanwhile."""
    return [row.payload["number"] for row in rows if row.task == "task"]


def test_what_a_relay_could_not_publish_stays_in_order(messages):
    with messages() as session:
        assert numbers(outbox.take(session, 2)) == [0, 1]
        session.rollback()
    with messages.begin() as session:
        assert numbers(outbox.take(session, 3)) == [0, 1, 2]
    with messages.begin() as session:
        assert numbers(outbox.take(session, 9)) == [3]
        assert outbox.count(session) == 0


def test_relays_side_by_side_take_different_messages(engine, messages):
    if engine.dialect.name == "sqlite":
        pytest.skip("writers of SQLite wait for each other")
    with messages() as first, messages() as second:
        assert numbers(outbox.take(first, 2)) == [0, 1]
        assert numbers(outbox.take(second, 9)) == [2, 3]
        second.rollback()
        first.commit()
    with messages.begin() as session:
        assert numbers(outbox.take(session, 9)) == [2, 3]


def test_who_shares_a_project_keeps_it_from_who_would_hold_it_and_from_nobody_else(engine, sessions):
    if engine.dialect.name == "sqlite":
        pytest.skip("writers of SQLite wait for each other")
    with sessions.begin() as session:
        row = ProjectRow(id=new_id(Prefix.PROJECT), name=new_id(Prefix.PROJECT), created_at=datetime.now(UTC))
        projects.add(session, row)
    with sessions() as first, sessions() as second, sessions() as holder:
        for sharer in (first, second):
            sharer.execute(text("SET LOCAL lock_timeout = '200ms'"))
            projects.share(sharer, row.id)
        holder.execute(text("SET LOCAL lock_timeout = '200ms'"))
        with pytest.raises(OperationalError):
            projects.lock(holder, row.id)
        holder.rollback()
        first.rollback()
        second.rollback()
        projects.lock(holder, row.id)
        second.execute(text("SET LOCAL lock_timeout = '200ms'"))
        with pytest.raises(OperationalError):
            projects.share(second, row.id)


def test_a_job_that_its_worker_gives_back_while_it_is_cancelled_ends_all_the_same(project, sessions):
    job = project.queued()
    project.claim(job)
    with ThreadPoolExecutor() as pool:
        with sessions.begin() as worker:
            assert jobs.try_again(worker, job, 1, WorkerLost("It is gone.").failure(), datetime.now(UTC))
            cancelling = pool.submit(project.client.post, f"jobs/{job}:cancel")
            with pytest.raises(TimeoutError):
                cancelling.result(0.3)  # it waits for the worker's row
        answer = cancelling.result()
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled"), answer.text
    events = project.client.get(f"jobs/{job}/events").json()["items"]
    assert [event["data"]["state"] for event in events] == ["queued", "running", "queued", "cancelled"]
