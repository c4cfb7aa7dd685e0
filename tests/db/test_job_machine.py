"""Jobs, claims, leases and retries on a real database, held to a model that fits in a few lines."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from sqlalchemy import select

from app.db import events, jobs, migrations, outbox, projects
from app.db.engine import make_engine, make_sessions
from app.db.tables import DatasetRow, JobRow, ModelRow, OutboxRow, ProjectRow
from app.domain.errors import ChildCrashed
from app.domain.ids import Prefix, new_id
from app.domain.job import MOST_RETRIES, EventType, JobState
from app.services import recovery

LEASE = timedelta(seconds=60)
REQUEUE_AFTER = timedelta(seconds=60)
FAILURE = ChildCrashed("It died.").failure()
END_STATES = [JobState.SUCCEEDED, JobState.FAILED, JobState.TIMED_OUT, JobState.CANCELLED]


class Expected:
    """What the model says of a job: ``token`` names the claim that holds it."""

    def __init__(self):
        self.state, self.attempt, self.retries = JobState.QUEUED, 1, 0
        self.token, self.lease_until, self.event_count = None, None, 1

    def hand_back(self, state, *, attempt=0, retries=None):
        self.state, self.token, self.lease_until = state, None, None
        self.attempt += attempt
        self.retries = self.retries if retries is None else retries
        self.event_count += 1


class Worker:
    """A claim that some worker holds, or believes to hold."""

    def __init__(self, row):
        self.row = row


class JobMachine(RuleBasedStateMachine):
    job_ids = Bundle("job_ids")
    workers = Bundle("workers")
    messages = Bundle("messages")

    @initialize()
    def open_database(self):
        self.folder = tempfile.TemporaryDirectory()
        self.db = make_engine(f"sqlite:///{Path(self.folder.name) / 'machine.db'}")
        migrations.upgrade(self.db)
        self.sessions = make_sessions(self.db)
        self.readers = make_sessions(self.db, read_only=True)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.expected = {}
        self.project, self.model, self.dataset = (new_id(p) for p in (Prefix.PROJECT, Prefix.MODEL, Prefix.DATASET))
        upload = {"project_id": self.project, "name": "n", "format": "f", "state": "ready", "size_bytes": 1}
        upload |= {"sha256": "0" * 64, "created_at": self.now, "asked_at": self.now}
        with self.sessions.begin() as session:
            projects.add(session, ProjectRow(id=self.project, name="default", created_at=self.now))
            session.add_all([ModelRow(id=self.model, **upload), DatasetRow(id=self.dataset, **upload)])

    def teardown(self):
        if hasattr(self, "db"):
            self.db.dispose()
            self.folder.cleanup()

    @rule(target=job_ids)
    def submit(self):
        row = JobRow(
            id=new_id(Prefix.JOB),
            project_id=self.project,
            name="",
            model_id=self.model,
            dataset_id=self.dataset,
            spec={},
            target="onnxruntime-cpu",
            attempt=1,
            queue="cpu",
            priority=5,
            labels={},
            created_at=self.now,
        )
        with self.sessions.begin() as session:
            jobs.add(session, row, self.now)
        self.expected[row.id] = Expected()
        return row.id

    @rule(target=messages)
    def publish(self):
        with self.sessions.begin() as session:
            rows = list(session.scalars(select(OutboxRow)))
            for row in rows:
                session.delete(row)
        return multiple(*((row.payload["job_id"], row.payload["attempt"]) for row in rows))

    @rule(message=consumes(messages))
    def lose_message(self, message):
        pass

    @rule(target=workers, message=messages)
    def deliver(self, message):
        """Messages stay in their bundle: each may be delivered again and again, however late."""
        job_id, attempt = message
        expected = self.expected[job_id]
        with self.sessions.begin() as session:
            row = jobs.claim(session, job_id, attempt, "w", self.now, self.now + LEASE)
        may = expected.state is JobState.QUEUED and expected.attempt == attempt
        assert (row is not None) == may
        if row is None:
            return multiple()
        worker = Worker(row)
        expected.state, expected.token, expected.lease_until = JobState.RUNNING, worker, self.now + LEASE
        expected.event_count += 1
        return worker

    def _believed(self, worker):
        """Tell what the fence lets through: the attempt, which a worker that put it back shares with the next."""
        expected = self.expected[worker.row.id]
        running = expected.state in (JobState.RUNNING, JobState.CANCELLING)
        return expected, running and expected.attempt == worker.row.attempt

    @rule(worker=workers)
    def renew(self, worker):
        expected, held = self._believed(worker)
        with self.sessions.begin() as session:
            assert jobs.renew(session, worker.row.id, worker.row.attempt, self.now + LEASE) == held
        if held:
            expected.lease_until = self.now + LEASE

    @rule(worker=workers)
    def report(self, worker):
        expected, held = self._believed(worker)
        data = {"fraction": 0.5, "message": ""}
        with self.sessions.begin() as session:
            told = jobs.append_event(session, worker.row.id, worker.row.attempt, EventType.PROGRESS, data, self.now)
        assert (told is not None) == held
        expected.event_count += held

    @rule(worker=consumes(workers), state=st.sampled_from(END_STATES))
    def finish(self, worker, state):
        expected, held = self._believed(worker)
        allowed = {JobState.RUNNING: END_STATES[:3], JobState.CANCELLING: [END_STATES[0], END_STATES[1], END_STATES[3]]}
        may = held and state in allowed[expected.state]
        failure = None if state is JobState.SUCCEEDED else FAILURE
        with self.sessions.begin() as session:
            ended = jobs.finish(session, worker.row.id, worker.row.attempt, state, failure, None, self.now)
        assert ended == may
        if may:
            expected.hand_back(state)

    @rule(worker=consumes(workers))
    def fail_for_now(self, worker):
        expected, held = self._believed(worker)
        may = held and expected.state is JobState.RUNNING and expected.retries < MOST_RETRIES
        with self.sessions.begin() as session:
            again = jobs.try_again(session, worker.row.id, worker.row.attempt, FAILURE, self.now)
            if again:
                outbox.add_job(session, session.get_one(JobRow, worker.row.id, populate_existing=True))
        assert again == may
        if may:
            expected.hand_back(JobState.QUEUED, attempt=1, retries=expected.retries + 1)

    @rule(worker=workers)
    def put_back(self, worker):
        """Only the claim itself may: one made since under the same attempt is another worker's."""
        expected = self.expected[worker.row.id]
        may = expected.token is worker and expected.state is JobState.RUNNING
        with self.sessions.begin() as session:
            back = jobs.put_back(session, worker.row, self.now)
            if back:
                outbox.add_job(session, worker.row)
        assert back == may
        if may:
            expected.hand_back(JobState.QUEUED)

    @rule(job_id=job_ids)
    def cancel(self, job_id):
        expected = self.expected[job_id]
        with self.sessions.begin() as session:
            state = jobs.cancel(session, job_id, self.now)
        if expected.state is JobState.QUEUED:
            expected.hand_back(JobState.CANCELLED)
        elif expected.state is JobState.RUNNING:
            expected.state = JobState.CANCELLING
            expected.event_count += 1
        assert state == (None if expected.state.ended and state is None else expected.state)

    @rule(job_id=job_ids)
    def retry(self, job_id):
        expected = self.expected[job_id]
        may = expected.state in (JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT)
        with self.sessions.begin() as session:
            row = session.get_one(JobRow, job_id)
            again = jobs.retry(session, row, self.now)
            if again:
                session.refresh(row)
                outbox.add_job(session, row)
        assert again == may
        if may:
            expected.hand_back(JobState.QUEUED, attempt=1, retries=0)

    @rule(seconds=st.sampled_from([1, 30, 61, 200]))
    def pass_time(self, seconds):
        self.now += timedelta(seconds=seconds)

    @rule()
    def reap(self):
        over = [e for e in self.expected.values() if e.lease_until is not None and e.lease_until < self.now]
        assert recovery.reap(self.readers, self.sessions, self.now) == len(over)
        for expected in over:
            if expected.state is JobState.CANCELLING:
                expected.hand_back(JobState.CANCELLED)
            elif expected.retries < MOST_RETRIES:
                expected.hand_back(JobState.QUEUED, attempt=1, retries=expected.retries + 1)
            else:
                expected.hand_back(JobState.FAILED)

    @rule(target=messages)
    def sweep(self):
        """Messages are lost, the broker holds nothing, time goes by: all that waits must be sent again."""
        self.publish_all()
        self.now += REQUEUE_AFTER + timedelta(seconds=1)
        recovery.sweep(self.readers, self.sessions, lambda _: 0, self.now - REQUEUE_AFTER, self.now)
        sent = self.publish_all()
        waiting = {(job_id, e.attempt) for job_id, e in self.expected.items() if e.state is JobState.QUEUED}
        assert sorted(sent) == sorted(waiting)
        return multiple(*sent)

    def publish_all(self):
        with self.sessions.begin() as session:
            rows = list(session.scalars(select(OutboxRow)))
            for row in rows:
                session.delete(row)
        return [(row.payload["job_id"], row.payload["attempt"]) for row in rows]

    @invariant()
    def the_database_agrees(self):
        if not getattr(self, "expected", None):
            return
        with self.readers() as session:
            for job_id, expected in self.expected.items():
                row = session.get_one(JobRow, job_id, populate_existing=True)
                found = (row.state, row.attempt, row.retries, row.lease_expires_at, row.last_event_id)
                told = (expected.state, expected.attempt, expected.retries, expected.lease_until, expected.event_count)
                assert found == told
                assert (row.ended_at is not None) == expected.state.ended
                ids = [event.id for event in events.after(session, job_id, 0, limit=10_000)]
                assert ids == list(range(1, row.last_event_id + 1))


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
