"""Resumable uploads to a process of its own: killed in between, counted while it writes, watched while it grows."""

import hashlib
import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager

import httpx
import psutil
import pytest
from tusclient.client import TusClient

from app.db import migrations
from app.db.engine import make_engine, make_sessions
from app.services import keys
from app.settings import Settings
from benchmarks.upload import MEBIBYTE, peak_of
from tests.tus import until

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = TUS | {"Content-Type": "application/offset+octet-stream"}
SIZE = 48 * MEBIBYTE


@pytest.fixture(scope="module")
def content():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("net/models/model.json", "{}")
        file.writestr("net/data/weights/weight_0", secrets.token_bytes(SIZE))
    return stream.getvalue()


class Api:
    """``winnowd api`` on a data folder, as often as it is started."""

    def __init__(self, data):
        self.data = data
        engine = make_engine(Settings(data=data).database_url)
        migrations.upgrade(engine)
        with make_sessions(engine).begin() as session:
            self.headers = {"Authorization": f"Bearer {keys.bootstrap(session)}"}
        engine.dispose()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def start(self):
        environment = os.environ | {
            "WINNOW_DATA": str(self.data),
            "WINNOW_BROKER_URL": f"redis+socket://{self.data}/none.sock",
        }
        command = [sys.executable, "-m", "app.cli", "api", "--port", self.url.rpartition(":")[2]]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.url}/healthz", trust_env=False).raise_for_status()
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait()

    def written(self):
        """Count the bytes that the process has handed to write calls since it started."""
        return psutil.Process(self.process.pid).io_counters().write_chars

    def client(self):
        return httpx.Client(base_url=f"{self.url}/api/v1/", headers=self.headers, timeout=60, trust_env=False)


@pytest.fixture
def api(tmp_path):
    api = Api(tmp_path)
    api.start()
    yield api
    api.kill()


def begin(client, size):
    return client.post("uploads", headers=TUS | {"Upload-Length": str(size)}).headers["location"].rpartition("/")[2]


def send(client, upload, start, data):
    return client.patch(f"uploads/{upload}", content=data, headers=PIECE | {"Upload-Offset": str(start)})


def offset_of(client, upload):
    return int(client.head(f"uploads/{upload}", headers=TUS).headers["upload-offset"])


def keep(client, upload, content):
    response = client.post("models", json={"name": "m", "upload_id": upload})
    assert response.status_code == 201, response.text
    assert response.json()["sha256"] == hashlib.sha256(content).hexdigest()


@contextmanager
def half_sent(api, upload, content, upto):
    """Send a part of a piece and leave the connection open."""
    head = [
        f"PATCH /api/v1/uploads/{upload} HTTP/1.1", "Host: localhost", f"Authorization: {api.headers['Authorization']}",
        "Tus-Resumable: 1.0.0", "Content-Type: application/offset+octet-stream", f"Content-Length: {len(content)}",
        "Upload-Offset: 0",
    ]  # fmt: skip
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode() + content[:upto])
        yield


def test_an_upload_outlives_the_process_killed_between_and_within_pieces(api, content):
    with api.client() as client:
        upload = begin(client, len(content))
        written = 10 * MEBIBYTE + 777
        with half_sent(api, upload, content, written):
            until(lambda: offset_of(client, upload) >= written - MEBIBYTE)
            api.kill()
    api.start()
    with api.client() as client:
        at = offset_of(client, upload)
        assert written - MEBIBYTE <= at <= written  # what was written is not sent again
        assert send(client, upload, at, content[at : 30 * MEBIBYTE]).status_code == 204
    api.kill()
    api.start()
    with api.client() as client:
        assert offset_of(client, upload) == 30 * MEBIBYTE
        resumed = TusClient(f"{api.url}/api/v1/uploads", api.headers).uploader(
            file_stream=io.BytesIO(content), url=f"{api.url}/api/v1/uploads/{upload}", chunk_size=8 * MEBIBYTE
        )
        resumed.upload()
        keep(client, upload, content)
        files = [path for path in (api.data / "objects").rglob("*") if path.is_file()]
        assert [path.stat().st_size for path in files] == [len(content)]


def test_a_byte_is_written_once_also_where_the_upload_is_resumed(api, content):
    with api.client() as client:
        upload = begin(client, len(content))
        half = len(content) // 2
        before = api.written()
        for start in range(0, half, 8 * MEBIBYTE):
            assert send(client, upload, start, content[start : min(half, start + 8 * MEBIBYTE)]).status_code == 204
        written = api.written() - before
    # Another process, which has to read what the first has hashed.
    api.kill()
    api.start()
    with api.client() as client:
        before = api.written()
        with half_sent(api, upload, content[half:], 0):
            pass
        # Until the server has noticed that this connection is gone.
        until(lambda: send(client, upload, half, b"").status_code == 204)
        for start in range(half, len(content), 8 * MEBIBYTE):
            assert send(client, upload, start, content[start : start + 8 * MEBIBYTE]).status_code == 204
        keep(client, upload, content)
        written += api.written() - before
    # What is more are the pages of the database and the log.
    assert len(content) <= written < 1.04 * len(content)


def test_memory_does_not_grow_with_a_piece_nor_with_the_upload(api, content):
    process = psutil.Process(api.process.pid)
    with api.client() as client:
        begin(client, 1)
        start = process.memory_info().rss
        with peak_of(process) as peak:
            upload = begin(client, len(content))
            assert send(client, upload, 0, content).status_code == 204
            keep(client, upload, content)
    assert peak[0] - start < 24 * MEBIBYTE
