"""What every answer carries, and what is asked without a body."""

import base64

import httpx
import pytest

from tests.api.operations import operations
from tests.serving import problem, serving

ORIGIN = "https://console.example"


def test_answers_cannot_be_framed_sniffed_or_run(project, server):
    for response in (project.client.get("models"), project.client.get("nowhere"), httpx.get(f"{server.url}/healthz")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["x-request-id"].startswith("req_")
    assert project.client.get("models").headers["content-security-policy"].startswith("default-src 'none'")
    assert "content-security-policy" not in httpx.get(f"{server.url}/docs").headers  # its scripts must load


def test_head_is_get_without_a_body(project):
    model = project.add_model()
    job = project.queued(model_id=model)
    for path in ("models", f"models/{model}", f"models/{model}/content", f"jobs/{job}/events", f"jobs/{job}/logs"):
        got, head = project.client.get(path), project.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag", "repr-digest"):
            assert head.headers.get(name) == got.headers.get(name), (path, name)
    ranged = project.client.head(f"models/{model}/content", headers={"Range": "bytes=0-9"})
    assert (ranged.status_code, ranged.headers["content-length"]) == (206, "10")
    # A stream that would never end is only announced.
    assert project.client.head(f"jobs/{job}/events", headers={"Accept": "text/event-stream"}).status_code == 200
    assert project.client.head("models/nothing").status_code == 404
    # It does what GET does: of an action, nothing.
    assert project.client.head(f"jobs/{job}:cancel").status_code == 404
    assert project.client.get(f"jobs/{job}").json()["state"] == "queued"


def test_every_get_has_its_head(project):
    for operation in operations():
        path = operation.path.format(**dict.fromkeys(operation.parameters, "x"))
        head = project.client.head(path)
        assert head.status_code == project.client.get(path).status_code, path
        assert head.content == b""


def test_no_page_of_another_origin_may_use_the_api(project):
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    response = project.client.options("jobs", headers=headers)
    problem(response, 405, "method_not_allowed")
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert "access-control-allow-origin" not in project.client.get("models", headers=headers).headers


@pytest.mark.parametrize(("origin", "allowed"), [(ORIGIN, ORIGIN), ("https://evil.example", None)])
def test_pages_of_the_origins_that_are_set_may(tmp_path, origin, allowed):
    with serving(tmp_path, cors_origins=[ORIGIN]) as server:
        project = server.project()
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization, idempotency-key"
        preflight = project.client.options("jobs", headers=asked)
        assert preflight.headers.get("access-control-allow-origin") == allowed
        if allowed:
            assert preflight.status_code == 200
        else:
            assert "origin" in problem(preflight, 400, "origin_refused")["detail"]
        asked["Access-Control-Request-Headers"] = "x-unknown"
        problem(project.client.options("jobs", headers=asked), 400, "origin_refused")
        answer = project.client.get("models", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed
        project.client.close()


def test_who_asks_for_a_websocket_is_answered_without(project):
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers["Sec-WebSocket-Key"] = base64.b64encode(bytes(16)).decode()
    assert project.client.get("models", headers=headers).json()["items"] == []
    problem(project.client.get(f"{project.server.url}/nowhere", headers=headers), 404, "not_found")
    problem(project.client.get("models", headers=headers | {"Authorization": "Bearer x"}), 401, "unauthenticated")
