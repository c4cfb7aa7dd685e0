"""A service with something of everything in it, for requests that nobody foresaw."""

import json
import subprocess
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from app.api.openapi import examples
from app.db import datasets, models, projects
from app.db.tables import DatasetRow, ModelRow, WorkerRow
from app.domain.job import JobState
from app.domain.model import ObjectState
from app.domain.target import TARGETS
from app.embedded import broker_command, broker_socket, wait_for_broker
from app.services import keys
from tests.factories import PRUNE, QUANTIZE, dataset_facts, model_facts, pt2
from tests.serving import Project, serving

_INSPECTION_SECONDS = 0.2
REPORT = json.dumps(examples()["get_job_report"]["response"]).encode()


class World:
    """``key`` is the operator's; ``ids`` are of an object of each kind, of the operator's own project."""

    def __init__(self, server):
        self.server = server
        with server.parts.sessions.begin() as session:
            self.key = keys.create_default_key(session, keys.SCOPES, name="fuzz")
        self.key_id = self.key.partition(".")[0]
        with server.parts.readers() as session:
            row = projects.by_name(session, keys.DEFAULT_PROJECT)
        self.project = Project(server, row)
        self.ids = self._fill(self.project)
        self._hire()

    def _fill(self, project):
        model, dataset = project.add_model(), project.add_dataset()
        jobs = {"queued": project.queued(model_id=model, dataset_id=dataset, labels={"team": "vision"})}
        for state in (JobState.SUCCEEDED, JobState.FAILED):
            job = project.queued(model_id=model, dataset_id=dataset, recipe=(PRUNE, QUANTIZE))
            project.claim(job)
            project.report_event(job, "log", {"level": "info", "message": "Halfway."})
            project.add_artifact(job, "report.json", REPORT, kind="report")
            project.finish(job, state, summary=examples()["get_job"]["response"]["summary"])
            jobs[state] = job
        artifact = project.add_artifact(jobs["succeeded"], "model.pt2", pt2())
        asked = {"model_id": model, "dataset_id": dataset, "objective": {"max_drop": 0.01}}
        sweep = project.client.post("sweeps", json=asked).json()["id"]
        body = {"url": "https://receiver.invalid/", "events": ["job.failed"]}
        webhook = project.client.post("webhooks", json=body).json()["id"]
        return {
            "model_id": model,
            "dataset_id": dataset,
            "job_id": jobs["succeeded"],
            "artifact_id": artifact,
            "sweep_id": sweep,
            "upload_id": self.upload(pt2()),
            "webhook_id": webhook,
            "delivery_id": project.client.post(f"webhooks/{webhook}:ping").json()["id"],
        }

    def upload(self, content):
        """Send a file in one piece by tus; give the id of the upload."""
        head = {"Tus-Resumable": "1.0.0"}
        begun = self.project.client.post("uploads", headers={**head, "Upload-Length": str(len(content))})
        upload_id = begun.headers["location"].rpartition("/")[2]
        piece = {**head, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        assert self.project.client.patch(f"uploads/{upload_id}", content=content, headers=piece).status_code == 204
        return upload_id

    def _hire(self):
        """Let a worker be seen for as long as this lasts, so that the service is ready."""
        later = datetime.now(UTC) + timedelta(days=1)
        with self.server.parts.sessions.begin() as session:
            for queue in ("cpu", "inspect"):
                targets = [target.name for target in TARGETS]
                times = {"started_at": later, "seen_at": later}
                session.add(WorkerRow(id=queue, queue=queue, targets=targets, isolation="bubblewrap", **times))

    def inspect(self, stop):
        """Find what is waiting to be looked into fit, as a worker would soon."""
        while not stop.wait(_INSPECTION_SECONDS):
            for row, table, facts in ((ModelRow, models, model_facts()), (DatasetRow, datasets, dataset_facts())):
                with self.server.parts.sessions.begin() as session:
                    waiting = select(row.id).where(row.state == ObjectState.VALIDATING)
                    for upload_id in list(session.scalars(waiting)):
                        table.finish_inspection(session, upload_id, facts)


@contextmanager
def broker(data):
    path = broker_socket(data)
    with subprocess.Popen(broker_command(data, path)) as process:
        try:
            wait_for_broker(path, process)
            yield f"redis+socket://{path}"
        finally:
            process.terminate()


@contextmanager
def world(data):
    with broker(data) as url, serving(data, broker_url=url) as server:
        found, stop = World(server), threading.Event()
        inspector = threading.Thread(target=found.inspect, args=(stop,))
        inspector.start()
        try:
            yield found
        finally:
            stop.set()
            inspector.join()
            found.project.client.close()
