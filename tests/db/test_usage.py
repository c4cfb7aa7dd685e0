"""Running totals of what a project uses, on SQLite and PostgreSQL alike."""

import threading
import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select, text

from app.db import jobs, projects, usage
from app.db.tables import ArtifactRow, ContentRow, DatasetRow, ModelRow, ProjectRow, UsageRow
from app.domain.errors import WorkerLost
from app.domain.ids import Prefix, new_id
from app.domain.job import JobState
from app.services import contents
from tests.factories import pt2

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def used(project):
    return project.client.get("usage").json()


def referred_bytes(project):
    """Add up what the project's rows refer to, each content once."""
    with project.server.parts.readers() as session:
        sizes = {}
        for row_class in (ModelRow, DatasetRow, ArtifactRow):
            for row in session.scalars(select(row_class).where(row_class.project_id == project.id)):
                if getattr(row, "state", None) != "rejected":
                    sizes[row.sha256] = row.size_bytes
    return sum(sizes.values())


def test_stored_bytes_count_each_content_once(project):
    content = pt2()
    first, second = (project.upload("models", content).json()["id"] for _ in range(2))
    assert used(project)["stored_bytes"] == len(content)
    job, began = project.queued(), time.monotonic()
    project.claim(job)
    project.add_artifact(job, "model.pt2", content)
    project.add_artifact(job, "model.onnx", b"onnx")
    project.add_artifact(job, "model.onnx", b"another attempt")
    contents.release(project.server.parts.sessions, project.server.parts.storage, project.id, _sha256(b"onnx"))
    assert used(project)["stored_bytes"] == referred_bytes(project) > len(content)
    for model in (first, second):
        project.client.delete(f"models/{model}")
    assert used(project)["stored_bytes"] == referred_bytes(project)
    project.finish(job)
    most = time.monotonic() - began
    spec = project.client.get(f"jobs/{job}").json()
    for path in (f"jobs/{job}", f"models/{spec['model_id']}", f"datasets/{spec['dataset_id']}"):
        assert project.client.delete(path).status_code == 204
    found = used(project)
    assert 0 <= found.pop("cpu_seconds") <= most + 0.01
    assert found == {"jobs": 1, "gpu_seconds": 0, "stored_bytes": 0}
    with project.server.parts.readers() as session:
        assert session.scalar(select(func.count()).where(ContentRow.project_id == project.id)) == 0


def _sha256(content):
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_seconds_are_those_of_all_attempts_on_their_kind_of_worker(project, sessions):
    after = {name: NOW + timedelta(seconds=seconds) for name, seconds in (("lost", 10), ("back", 30), ("end", 100))}
    failure = WorkerLost("gone").failure()
    for queue in ("cpu", "gpu"):
        job = project.queued(queue=queue)
        with sessions.begin() as session:
            jobs.claim(session, job, 1, "w", NOW, NOW)
            assert jobs.try_again(session, job, 1, failure, after["lost"])
            row = jobs.claim(session, job, 2, "w", NOW, NOW)
            assert jobs.put_back(session, row, after["back"])
            assert jobs.claim(session, job, 2, "w", NOW, NOW)
            assert jobs.finish(session, job, 2, JobState.SUCCEEDED, None, None, after["end"])
            assert not jobs.finish(session, job, 2, JobState.SUCCEEDED, None, None, after["end"])
    found = used(project)
    assert (found["jobs"], found["cpu_seconds"], found["gpu_seconds"]) == (2, 140, 140)


def test_a_job_that_never_ran_cost_nothing(project):
    project.client.post(f"jobs/{project.queued()}:cancel")
    assert (used(project)["jobs"], used(project)["cpu_seconds"]) == (1, 0)


def test_totals_of_writers_side_by_side_miss_nothing(sessions):
    row = ProjectRow(id=new_id(Prefix.PROJECT), name=new_id(Prefix.PROJECT), created_at=NOW)
    with sessions.begin() as session:
        projects.add(session, row)

    def write():
        for _ in range(10):
            with sessions.begin() as session:
                usage.add(session, row.id, jobs=1, stored_bytes=3)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sessions() as session:
        found = usage.get(session, row.id)
        assert (found.jobs, found.stored_bytes) == (40, 120)


def test_usage_is_one_row_by_its_key(engine, project):
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    query = str(select(UsageRow).where(UsageRow.project_id == "p").compile(compile_kwargs={"literal_binds": True}))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = str(connection.execute(text(explain + query)).all())
    assert "usage_1" in plan or "pk_usage" in plan
