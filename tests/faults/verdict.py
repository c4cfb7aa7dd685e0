"""What must hold after every round."""

import hashlib

from sqlalchemy import func, select

from app.db.tables import ArtifactRow, EventRow, JobRow, OutboxRow
from app.domain.job import EventType, JobState
from app.storage import content_key

EXPECTED = {"job.log", "manifest.json", "manifest.json.sig", "model.onnx", "model.pt2"}
WITH_REPORT = EXPECTED | {"benchmark.zip", "report.json", "report.html", "model-card.md"}
MODELS = ("model.onnx", "model.pt2")


def check(cluster, job_id, models):
    """Check a job that has ended against the models of one that nothing disturbed; null for the first."""
    with cluster.sessions() as session:
        job = session.get_one(JobRow, job_id)
        events = session.scalars(select(EventRow).where(EventRow.job_id == job_id).order_by(EventRow.id)).all()
        artifacts = session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id)).all()
    assert job.state == JobState.SUCCEEDED, (job.state, job.failure)
    assert (job.lease_expires_at, job.progress) == (None, 1.0)
    assert [event.id for event in events] == list(range(1, job.last_event_id + 1))
    states = [event.data["state"] for event in events if event.type == EventType.STATE]
    assert sum(JobState(state).ended for state in states) == 1, states
    assert states[-1] == JobState.SUCCEEDED, states
    assert states[:-1] == ["queued", "running"] * (len(states) // 2), states
    assert sorted(artifact.name for artifact in artifacts) in (sorted(EXPECTED), sorted(WITH_REPORT))
    for artifact in artifacts:
        content = cluster.storage.read_bytes(content_key(artifact.project_id, artifact.sha256))
        assert hashlib.sha256(content).hexdigest() == artifact.sha256, artifact.name
        assert len(content) == artifact.size_bytes
    made = {artifact.name: artifact.sha256 for artifact in artifacts if artifact.name in MODELS}
    assert models is None or made == models, "other bytes than those of an undisturbed job"
    resumed = any(_says_resumed(event) for event in events)
    return made, job.attempt, resumed


def _says_resumed(event):
    return event.type == EventType.LOG and event.data["message"].startswith("going on ")


def nothing_left(cluster):
    """Tell what is still under way though every job has ended."""
    with cluster.sessions() as session:
        unended = session.scalar(select(func.count()).where(JobRow.ended_at.is_(None)))
        unpublished = session.scalar(select(func.count()).select_from(OutboxRow))
    running = cluster.engines()
    dead = [part for part, process in cluster.processes.items() if process.poll() is not None]
    return {
        name: value
        for name, value in {"jobs": unended, "messages": unpublished, "engines": running, "dead parts": dead}.items()
        if value
    }
