"""What a real server writes of its requests, and what it must not."""

import json
import socket
import subprocess
import sys
import time

import httpx
import pytest

from tests.serving import problem


@pytest.fixture
def process(server, tmp_path):
    """Run another API on the same data; give its address and what stops it and reads its log."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "app.cli", "api", "--port", str(port)]
    path = tmp_path / "log"
    data, broker = server.parts.settings.data, server.parts.settings.broker_url
    with path.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, env={"WINNOW_DATA": str(data), "WINNOW_BROKER_URL": broker}
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/healthz")
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline
            assert child.poll() is None, path.read_text()
            time.sleep(0.1)

    def stop():
        # A request's line follows its answer: the log is whole when the server has stopped.
        child.terminate()
        assert child.wait(60) in {0, -15}
        return path.read_text()

    yield url, stop
    child.kill()
    child.wait()


def test_a_real_server_logs_json_without_a_secret_and_obeys_a_revocation(project, process):
    url, stop = process
    secrets = [project.key]
    key = {"Authorization": f"Bearer {project.key}"}
    with httpx.Client(base_url=f"{url}/api/v1/", headers=key, timeout=60) as client:
        asked = {"json": {"name": "private name"}, "headers": {"Idempotency-Key": "once-and-only"}}
        made = client.post("keys", **asked).json()
        replay = client.post("keys", **asked)
        rotated = client.post(f"keys/{made['id']}:rotate").json()
        secrets += [made["key"], rotated["key"]]
        listed = client.get("models", headers={"Authorization": f"Bearer {rotated['key']}"})
        assert listed.status_code == 200
        refused = [client.get("models", headers={"Authorization": f"Bearer {text}"}) for text in (made["key"], "x.y")]
        refused.append(client.get("models", params={"key": rotated["key"]}))
        refused.append(client.post("keys", json={"name": "k", "scopes": [rotated["key"]]}))
        # Revoked at one server, dead at the other.
        assert project.client.delete(f"keys/{made['id']}").status_code == 204
        time.sleep(1)
        dead = client.get("models", headers={"Authorization": f"Bearer {rotated['key']}"})
        problem(dead, 401, "unauthenticated")
    texts = [secret.partition(".")[2] for secret in secrets]
    for answer in refused:
        assert [text for text in texts if text in answer.text] == []
    log = stop()
    assert [text for text in (*texts, "private name") if text in log] == []
    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    requests = {line["request_id"]: line for line in lines if line["event"] == "request"}
    line = requests[listed.headers["x-request-id"]]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/v1/models", 200)
    assert line["key_id"] == made["id"]
    assert requests[replay.headers["x-request-id"]]["key_id"] == project.key.partition(".")[0]
    assert requests[dead.headers["x-request-id"]]["status"] == 401
