"""A database, a storage and a model with its data, as an API would have left them for a worker."""

import json
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime

from app.db import artifacts, datasets, events, jobs, migrations, models, projects
from app.db.engine import make_engine, make_sessions
from app.db.tables import DatasetRow, JobRow, ModelRow, ProjectRow
from app.domain.ids import Prefix, new_id
from app.domain.job import JobSpec
from app.domain.manifest import MANIFEST_FILE, SIGNATURE_FILE
from app.domain.model import ObjectState
from app.storage import Storage, content_key
from tests.workers.walls import SPEAK, all_gone
from workers.isolation.backends import probe
from workers.isolation.policy import Limits
from workers.sandbox import Sandbox
from workers.workplace import Workplace

RECIPE = [{"method": "prune", "granularity": "channel", "criterion": "l2", "amount": 0.5, "scope": "global"}]
LIMITS = Limits(memory_bytes=8 << 30, disk_bytes=1 << 30)


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Site:
    """One data folder with a project in it."""

    def __init__(self, data):
        self.data = data
        self.database_url = f"sqlite:///{data / 'winnow.db'}"
        self.db = make_engine(self.database_url)
        migrations.upgrade(self.db)
        self.sessions = make_sessions(self.db)
        self.storage = Storage((data / "objects").as_uri())
        self.project = new_id(Prefix.PROJECT)
        with self.sessions.begin() as session:
            projects.add(session, ProjectRow(id=self.project, name="default", created_at=datetime.now(UTC)))

    def workplace(self, body: str) -> Workplace:
        """Give a workplace whose engine is a toy that runs ``body`` with ``say`` and ``out`` at hand."""

        def engine(folder):
            script = folder / "toy.py"
            script.write_text(f"{SPEAK}\nout = {str(folder / 'out')!r}\n{textwrap.dedent(body)}")
            return [sys.executable, str(script), str(folder)]

        sandbox = Sandbox(probe(), LIMITS)
        return Workplace(
            "toy@here",
            self.data / "scratch",
            self.sessions,
            self.storage,
            sandbox,
            threading.Event(),
            self.data / "signing.key",
            engine,
            measuring_lock=self.data / "measuring.lock",
        )

    def add_upload(self, row_class, path, state=ObjectState.READY):
        with path.open("rb") as file:
            sha256, size_bytes = self.storage.store_file(file, self.project)
        prefix = Prefix.MODEL if row_class is ModelRow else Prefix.DATASET
        row = row_class(
            id=new_id(prefix),
            project_id=self.project,
            name=path.name,
            format=path.suffix[1:],
            state=state,
            size_bytes=size_bytes,
            sha256=sha256,
            created_at=datetime.now(UTC),
        )
        table = models if row_class is ModelRow else datasets
        with self.sessions.begin() as session:
            table.add(session, row)
        return row

    def add_inputs(self):
        """Upload a model and a data set of a few bytes, which a toy takes for real."""
        model, data = self.data / "m.pt2", self.data / "d.npz"
        model.write_bytes(b"model")
        data.write_bytes(b"data")
        return self.add_upload(ModelRow, model), self.add_upload(DatasetRow, data)

    def upload(self, row_class, row_id):
        with self.sessions() as session:
            return session.get(row_class, row_id)

    def submit(self, model, dataset, recipe=RECIPE, **fields) -> str:
        """Queue a job with its message in the outbox."""
        spec = JobSpec.model_validate_json(
            json.dumps({"model_id": model.id, "dataset_id": dataset.id, "recipe": recipe, **fields})
        )
        row = JobRow(
            id=new_id(Prefix.JOB),
            project_id=self.project,
            name=spec.name,
            model_id=model.id,
            dataset_id=dataset.id,
            spec=spec.model_dump(mode="json"),
            target=spec.target,
            queue="cpu",
            priority=spec.priority,
            labels={},
            attempt=1,
            created_at=datetime.now(UTC),
        )
        with self.sessions.begin() as session:
            jobs.add(session, row, row.created_at, [name for step in spec.recipe for name in step.models.values()])
        return row.id

    def job(self, job_id):
        with self.sessions() as session:
            return session.get(JobRow, job_id)

    def artifacts(self, job_id):
        """Give the rows by name, without the manifest that lists the others."""
        return {name: row for name, row in self._all_artifacts(job_id).items() if not name.startswith(MANIFEST_FILE)}

    def manifest(self, job_id):
        """Give the bytes of the manifest and of its signature, None where there are none."""
        rows = self._all_artifacts(job_id)
        if MANIFEST_FILE not in rows:
            return None
        return [
            self.storage.read_bytes(content_key(self.project, rows[name].sha256))
            for name in (MANIFEST_FILE, SIGNATURE_FILE)
        ]

    def _all_artifacts(self, job_id):
        with self.sessions() as session:
            return {row.name: row for row in artifacts.of_job(session, job_id)}

    def cancel(self, job_id):
        with self.sessions.begin() as session:
            return jobs.cancel(session, job_id, datetime.now(UTC))

    def events(self, job_id):
        with self.sessions() as session:
            return list(events.after(session, job_id, 0, limit=100_000))

    def nothing_runs(self) -> bool:
        return all_gone(self.data)

    def close(self):
        self.db.dispose()
