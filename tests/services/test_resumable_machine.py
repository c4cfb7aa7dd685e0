"""Uploads in pieces against a model of them: made, written to, cut, ended, and kept, in a folder and in a bucket."""

import asyncio
import hashlib
import random
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from app.db import migrations, projects
from app.db.engine import make_engine, make_sessions
from app.db.tables import ProjectRow, UploadRow
from app.domain.errors import ChecksumMismatch, NotFound, TooLarge, UnknownFormat, UploadIncomplete, WrongOffset
from app.domain.ids import Prefix, new_id
from app.domain.tus import Checksum
from app.services import datasets, models
from app.services.callers import Caller
from app.services.resumable import Uploads, clear_expired
from app.services.uploads import Expectation
from app.settings import Settings
from app.storage import Storage, content_key
from tests.factories import safetensors

ANY = Expectation(None, None, None)
LONGEST = 600


async def pieces(data, *, step=70, breaks=False):
    for start in range(0, len(data), step):
        yield data[start : start + step]
    if breaks:
        raise ConnectionError


def begun(service, project, content):
    """Begin an upload and give its id, as it is told within the transaction."""
    told = []
    service.create(project, len(content), "", lambda _, row: told.append(row.id))
    return told[0]


class UploadMachine(RuleBasedStateMachine):
    """What has come of each upload is always a beginning of what was sent, as long as the model says."""

    uploads = Bundle("uploads")
    url = None
    """Where contents are kept; a folder of its own where it is not said."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        data = Path(self.folder.name)
        self.engine = make_engine(f"sqlite:///{data / 'winnow.db'}")
        migrations.upgrade(self.engine)
        self.sessions, self.readers = make_sessions(self.engine), make_sessions(self.engine, read_only=True)
        self.storage = Storage(self.url or (data / "objects").as_uri())
        self.settings = Settings(data=data)
        self.project = new_id(Prefix.PROJECT)
        with self.sessions.begin() as session:
            row = ProjectRow(id=self.project, name=self.project, created_at=datetime.now(UTC))
            projects.add(session, row)
        self.came = {}
        self.contents = {}
        self.restart()

    def teardown(self):
        self.engine.dispose()
        self.folder.cleanup()

    @rule()
    def restart(self):
        """Another process knows what is written down, and no hash."""
        self.service = Uploads(self.sessions, self.readers, self.storage, self.settings, write_bytes=100)

    @rule(target=uploads, more=st.integers(0, LONGEST), known=st.sampled_from([True, True, False]))
    def create(self, more, known):
        content = safetensors() if known else random.Random(more).randbytes(more)
        upload = begun(self.service, self.project, content)
        self.contents[upload], self.came[upload] = content, 0
        return upload

    def send(self, upload, offset, data, checksum=None, *, breaks=False):
        body = pieces(data, breaks=breaks)
        return asyncio.run(self.service.append(self.project, upload, offset, checksum, body))

    def next(self, upload, share):
        """Give a part of what is still to come."""
        at = self.came[upload]
        return self.contents[upload][at : at + round(share * (len(self.contents[upload]) - at))]

    @rule(upload=uploads, share=st.sampled_from([0, 0.3, 0.9, 1]), algorithm=st.sampled_from([None, "sha1", "sha512"]))
    def append(self, upload, share, algorithm):
        data = self.next(upload, share)
        checksum = Checksum(algorithm, hashlib.new(algorithm, data).digest()) if algorithm else None
        row = self.send(upload, self.came[upload], data, checksum)
        self.came[upload] += len(data)
        assert row.offset_bytes == self.came[upload]

    @rule(upload=uploads, share=st.sampled_from([0.2, 0.7, 1]))
    def cut(self, upload, share):
        data = self.next(upload, share)
        with pytest.raises(ConnectionError):
            self.send(upload, self.came[upload], data, breaks=True)
        self.came[upload] += len(data)

    @rule(upload=uploads, share=st.sampled_from([0.2, 0.7, 1]), breaks=st.booleans())
    def send_what_does_not_match(self, upload, share, breaks):
        data, wrong = self.next(upload, share), Checksum("sha1", bytes(20))
        with pytest.raises(ConnectionError if breaks else ChecksumMismatch):
            self.send(upload, self.came[upload], data[::-1], wrong, breaks=breaks)

    @rule(upload=uploads, off=st.sampled_from([-1, 1, 1000]))
    def send_elsewhere(self, upload, off):
        with pytest.raises(WrongOffset):
            self.send(upload, self.came[upload] + off, b"x")

    @rule(upload=uploads, more=st.sampled_from([1, 300]))
    def send_too_much(self, upload, more):
        data = self.next(upload, 1)[::-1] + bytes(more)
        with pytest.raises(TooLarge):
            self.send(upload, self.came[upload], data)

    @rule(upload=consumes(uploads))
    def terminate(self, upload):
        self.service.remove(Caller(new_id(Prefix.KEY), self.project, frozenset({"write"})), upload)
        self.forget(upload)

    @rule(upload=consumes(uploads))
    def expire(self, upload):
        with self.sessions.begin() as session:
            session.get(UploadRow, upload).expires_at = datetime.now(UTC) - timedelta(seconds=1)
        self.forget(upload)
        assert clear_expired(self.sessions, self.readers, self.service.drafts, datetime.now(UTC)) == 1

    def forget(self, upload):
        del self.came[upload], self.contents[upload]
        with pytest.raises(NotFound):
            self.send(upload, 0, b"")

    async def keep(self, service, upload):
        async with self.service.collected(self.project, upload) as incoming:
            told = []
            # Of a data set, None is the preprocessing.
            given = ("kept", incoming, ANY, *((None,) if service is datasets else ()))
            service.register(self.sessions, self.storage, self.project, *given, lambda _, row: told.append(row))
            return told[0]

    @rule(target=uploads, upload=consumes(uploads))
    def finish(self, upload):
        content = self.contents[upload]
        if self.came[upload] < len(content):
            with pytest.raises(UploadIncomplete):
                asyncio.run(self.keep(datasets, upload))
            self.append(upload, 0.5, None)
            self.append(upload, 1, "sha1")
        if b'"train.x"' not in content:
            return upload  # nothing that anybody takes
        with pytest.raises(UnknownFormat):
            asyncio.run(self.keep(models, upload))  # and it is still there
        row = asyncio.run(self.keep(datasets, upload))
        assert row.sha256 == hashlib.sha256(content).hexdigest()
        assert self.storage.read_bytes(content_key(self.project, row.sha256)) == content
        self.forget(upload)
        return multiple()

    @precondition(lambda self: self.came)
    @invariant()
    def each_has_come_as_far_as_the_model_says(self):
        rows = self.service.list_page(self.project, before=None, limit=100)
        assert {row.id: row.offset_bytes for row in rows} == self.came

    @invariant()
    def no_bytes_stay_of_what_is_gone(self):
        soon = datetime.now(UTC) + timedelta(hours=1)
        assert set(self.service.drafts.stale(soon)) <= set(self.came)
        assert self.storage.sweep(soon) == (0, 0)


def test_uploads_in_a_folder():
    run_machine(UploadMachine, settings=settings(max_examples=15, stateful_step_count=25, deadline=None))


@pytest.fixture
def bucket(monkeypatch):
    """Serve a bucket by a server of S3's protocol; give its URL."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **access).create_bucket(Bucket="contents")
    for name, value in {
        "AWS_ENDPOINT": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield "s3://contents"
    server.stop()


def test_uploads_in_a_bucket(bucket):
    number = iter(range(10**6))

    class InBucket(UploadMachine):
        def __init__(self):
            self.url = f"{bucket}/{next(number)}"
            super().__init__()

    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_machine(
        InBucket,
        settings=settings(max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=checks),
    )


def test_of_two_pieces_in_a_bucket_that_start_at_one_place_the_first_to_end_counts(bucket, tmp_path):
    machine = type("InBucket", (UploadMachine,), {"url": f"{bucket}/both"})()
    content = safetensors()
    upload = begun(machine.service, machine.project, content)

    async def both():
        ended = asyncio.Event()

        async def slow():
            yield b"other"
            await ended.wait()

        first = asyncio.create_task(machine.service.append(machine.project, upload, 0, None, slow()))
        await asyncio.sleep(0.2)
        await machine.service.append(machine.project, upload, 0, None, pieces(content))
        ended.set()
        with pytest.raises(WrongOffset):
            await first
        return await machine.keep(datasets, upload)

    row = asyncio.run(both())
    assert row.sha256 == hashlib.sha256(content).hexdigest()
    assert list(machine.service.drafts.stale(datetime.now(UTC) + timedelta(hours=1))) == []
    machine.teardown()
