"""A real server over a real database and storage, and one project that uses it."""

import hashlib
import io
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import structlog
import uvicorn
from sqlalchemy import event, func, select

from app.db import artifacts, datasets, jobs, migrations, models, projects
from app.db.tables import ArtifactRow, DatasetRow, JobRow, ModelRow, OutboxRow, ProjectRow
from app.domain.ids import Prefix, new_id
from app.domain.job import EventType, JobState
from app.main import create_app
from app.services import keys
from app.settings import Settings
from app.storage import content_key
from tests.api.operations import refusals
from tests.factories import PRUNE, dataset_facts, model_facts, npz, pt2

# With the locals that a richer one shows, a fault of the service's own would hold it up for half a minute.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S"),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)
OCTETS = {"Content-Type": "application/octet-stream"}
MAX_UPLOAD_BYTES = 4 * 1024**2
MAX_BODY_BYTES = 64 * 1024
PROMPT_SECONDS = 10
"""Time for what is done at once on a machine that stalls; who waits for a ping, or for its own end, takes longer."""


class Server:
    """One API process's worth of service, answering on a port of its own."""

    def __init__(self, app, listening):
        self.parts = app.state.parts
        _, self.port = listening.servers[0].sockets[0].getsockname()
        self.url = f"http://127.0.0.1:{self.port}"

    def project(self):
        row = ProjectRow(id=new_id(Prefix.PROJECT), name=new_id(Prefix.PROJECT), created_at=datetime.now(UTC))
        with self.parts.sessions.begin() as session:
            projects.add(session, row)
        return Project(self, row)

    @contextmanager
    def operator(self):
        """Give a client with an admin key of the default project."""
        with self.parts.sessions.begin() as session:
            key = keys.create_default_key(session, keys.SCOPES, name="operator")
        with self.client_with(key) as client:
            yield client

    def client_with(self, key):
        headers = {"Authorization": f"Bearer {key}"}
        # Without verification no certificates are loaded, which would take longer than most tests.
        return httpx.Client(base_url=f"{self.url}/api/v1/", headers=headers, timeout=90, verify=False)


@contextmanager
def statements(server):
    """Collect the statements that requests cost; what the service does by itself is left out."""
    found = []

    def note(*given):
        if not threading.current_thread().name.startswith(("housekeeper", "relay", "courier")):
            found.append(given[2])

    event.listen(server.parts.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(server.parts.engine, "before_cursor_execute", note)


@contextmanager
def serving(data, **settings):
    """Serve a migrated data folder until the block ends; no worker lives and no broker is there unless given."""
    given = {"broker_url": f"redis+socket://{data}/no-broker.sock", "max_upload_bytes": MAX_UPLOAD_BYTES}
    app = create_app(Settings(data=data, max_body_bytes=MAX_BODY_BYTES, **{**given, **settings}))
    migrations.upgrade(app.state.parts.engine)
    # As ``winnowd api`` has it.
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1, server_header=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    try:
        yield Server(app, server)
    finally:
        server.should_exit = True
        thread.join()


class Project:
    """A project with a key, what it can ask over HTTP, and what a worker would do for it."""

    def __init__(self, server, row):
        self.server, self.row, self.id = server, row, row.id
        self.key = self.make_key()
        self.client = self.client_with(self.key)

    def make_key(self, scopes=keys.SCOPES):
        with self.server.parts.sessions.begin() as session:
            return keys.make(session, None, self.id, scopes, name="test").text

    def client_with(self, key):
        return self.server.client_with(key)

    def upload(self, noun, content, **arguments):
        query = {"name": "digits"} | arguments.pop("params", {})
        headers = OCTETS | arguments.pop("headers", {})
        return self.client.post(noun, params=query, content=content, headers=headers, **arguments)

    def add_model(self, **facts):
        """Upload a model and let its inspection find these facts."""
        return self._ready("models", pt2(), models, model_facts(**facts))

    def add_dataset(self, **facts):
        return self._ready("datasets", npz(), datasets, dataset_facts(**facts))

    def _ready(self, noun, content, table, facts):
        upload_id = self.upload(noun, content).json()["id"]
        with self.server.parts.sessions.begin() as session:
            assert table.finish_inspection(session, upload_id, facts)
        return upload_id

    def submit(self, model_id=None, dataset_id=None, recipe=(PRUNE,), **fields):
        """Ask for a job, of a model and a data set that fit where none are given."""
        ids = {"model_id": model_id or self.add_model(), "dataset_id": dataset_id or self.add_dataset()}
        return self.client.post("jobs", json={**ids, "recipe": list(recipe), **fields})

    def queued(self, **fields):
        response = self.submit(**fields)
        assert response.status_code == 202, response.text
        return response.json()["id"]

    def claim(self, job_id):
        with self.server.parts.sessions.begin() as session:
            now = datetime.now(UTC)
            assert jobs.claim(session, job_id, 1, "cpu@test", now, now + timedelta(minutes=1))

    def report_event(self, job_id, type_, data):
        with self.server.parts.sessions.begin() as session:
            return jobs.append_event(session, job_id, 1, EventType(type_), data, datetime.now(UTC))

    def finish(self, job_id, state=JobState.SUCCEEDED, failure=None, summary=None):
        with self.server.parts.sessions.begin() as session:
            assert jobs.finish(session, job_id, 1, state, failure, summary, datetime.now(UTC))

    def add_artifact(self, job_id, name, content, kind="model"):
        """Keep a file of the job the way a worker does; return its id."""
        path = self.server.parts.settings.data / f"{new_id(Prefix.ARTIFACT)}.file"
        path.write_bytes(content)
        with path.open("rb") as file:
            sha256, size_bytes = self.server.parts.storage.store_file(file, self.id)
        path.unlink()
        row = ArtifactRow(
            id=new_id(Prefix.ARTIFACT),
            project_id=self.id,
            job_id=job_id,
            name=name,
            kind=kind,
            format=name.rpartition(".")[2],
            size_bytes=size_bytes,
            sha256=sha256,
            created_at=datetime.now(UTC),
        )
        with self.server.parts.sessions.begin() as session:
            artifacts.add(session, row)
        return row.id

    def holds(self, content):
        """Tell whether the storage has this content among the project's."""
        return self.server.parts.storage.exists(content_key(self.id, hashlib.sha256(content).hexdigest()))

    def kept(self):
        """Count all that the service keeps for the project: files, half-received ones too, rows and messages."""
        objects = self.server.parts.settings.data / "objects"
        files = [*objects.glob(f"projects/{self.id}/*"), *objects.glob("incoming/*")]
        with self.server.parts.readers() as session:
            rows = [
                session.scalar(select(func.count()).where(row.project_id == self.id))
                for row in (ModelRow, DatasetRow, JobRow)
            ]
            return len(files), *rows, session.scalar(select(func.count()).select_from(OutboxRow))


def slowly(content, pieces=4):
    """Give the content in pieces, so that it is sent without a length."""
    stream = io.BytesIO(content)
    while piece := stream.read(len(content) // pieces + 1):
        yield piece


def problem(response, status, code):
    """Check that a response is a problem of this code in full; return its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["code"] == code, body
    assert body["type"] == f"urn:winnow:problem:{code}"
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["instance"] == response.request.url.path
    assert body["title"]
    assert body["detail"]
    # What a test makes happen is what the OpenAPI document says can happen.
    method = response.request.method.replace("HEAD", "GET")
    documented = refusals(method, response.request.url.path)
    assert documented is None or code in documented.get(status, ()), f"{code} is not documented: app/api/refusals.py"
    return body


def every(client, path, **query):
    """Return the items of all pages of a list."""
    page = client.get(path, params=query).json()
    items = page["items"]
    while page["next_cursor"]:
        page = client.get(path, params={**query, "cursor": page["next_cursor"]}).json()
        items += page["items"]
    return items


def pointers(body):
    return [error["pointer"] for error in body["errors"]]
