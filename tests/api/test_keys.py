"""Projects, keys and the trail of what was done with them."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from app.api import watching
from app.db.tables import JobRow
from app.domain.ids import Prefix, new_id
from tests.factories import PRUNE, pt2
from tests.serving import OCTETS, PROMPT_SECONDS, every, pointers, problem, serving


def acts(project):
    items = project.client.get("audit", params={"limit": 200}).json()["items"]
    return [(item["action"], item["object_id"]) for item in items]


def test_a_key_is_shown_once_and_does_what_it_may(project):
    until = datetime.now(UTC) + timedelta(hours=1)
    asked = {"name": "ci", "scopes": ["read"], "expires_at": until.isoformat()}
    response = project.client.post("keys", json=asked)
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    made = response.json()
    text = made.pop("key")
    assert text.startswith(f"{made['id']}.")
    assert response.headers["location"] == f"/api/v1/keys/{made['id']}"
    assert project.client.get(f"keys/{made['id']}").json() == made
    assert project.client.get("keys").json()["items"][0] == made
    assert (made["project_id"], made["scopes"], made["revoked_at"]) == (project.id, ["read"], None)
    assert datetime.fromisoformat(made["expires_at"]) == until
    with project.client_with(text) as client:
        assert client.get("models").status_code == 200
        problem(client.get("keys"), 403, "forbidden")


def test_keys_are_paged_newest_first(project):
    ids = [project.client.post("keys", json={"name": "k"}).json()["id"] for _ in range(3)]
    first = project.client.get("keys", params={"limit": 2}).json()
    last = project.client.get("keys", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in (*first["items"], *last["items"])] == [*ids[::-1], project.key.partition(".")[0]]
    assert last["next_cursor"] is None


def test_a_rotated_key_has_another_text_alone(project):
    made = project.client.post("keys", json={"name": "k", "scopes": ["read"]}).json()
    rotated = project.client.post(f"keys/{made['id']}:rotate").json()
    assert {**rotated, "key": None} == {**made, "key": None}
    for text, status in ((made["key"], 401), (rotated["key"], 200)):
        with project.client_with(text) as client:
            assert client.get("models").status_code == status
    project.client.delete(f"keys/{made['id']}")
    problem(project.client.post(f"keys/{made['id']}:rotate"), 409, "conflict")


def test_a_key_revoked_at_one_server_is_dead_at_another_within_a_second(server, project):
    made = project.client.post("keys", json={"name": "k"}).json()
    with serving(server.parts.settings.data) as other, project.client_with(made["key"]) as client:
        url = f"{other.url}/api/v1/models"
        assert client.get(url).status_code == 200
        assert project.client.delete(f"keys/{made['id']}").status_code == 204
        time.sleep(1)
        problem(client.get(url), 401, "unauthenticated")
    assert project.client.delete(f"keys/{made['id']}").status_code == 204
    assert acts(project).count(("key.revoked", made["id"])) == 1


def test_who_waits_is_looked_after_more_than_once_a_second():
    assert watching._KEYS_SECONDS + watching.POLL_SECONDS < 1


@pytest.mark.parametrize("ending", ["revoke", "rotate"])
def test_a_stream_ends_with_its_key(project, ending):
    job = project.queued()
    made = project.client.post("keys", json={"name": "k"}).json()
    headers = {"Accept": "text/event-stream"}
    with (
        project.client_with(made["key"]) as client,
        client.stream("GET", f"jobs/{job}/events", headers=headers) as response,
    ):
        lines = response.iter_lines()
        assert next(lines).startswith("id: 1")
        if ending == "revoke":
            project.client.delete(f"keys/{made['id']}")
        else:
            project.client.post(f"keys/{made['id']}:rotate")
        began = time.monotonic()
        assert [line for line in lines if line.startswith("id:")] == []
        assert time.monotonic() - began < PROMPT_SECONDS


def test_a_request_that_waits_ends_with_its_key(project):
    made = project.client.post("keys", json={"name": "k"}).json()
    waiting = [f"models/{project.upload('models', pt2()).json()['id']}", f"jobs/{project.queued()}"]
    with project.client_with(made["key"]) as client, ThreadPoolExecutor() as pool:
        answers = [pool.submit(client.get, path, params={"wait": 60}) for path in waiting]
        time.sleep(0.5)
        assert not any(answer.done() for answer in answers)
        project.client.delete(f"keys/{made['id']}")
        began = time.monotonic()
        for answer in answers:
            problem(answer.result(), 401, "unauthenticated")
        assert time.monotonic() - began < PROMPT_SECONDS


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"name": ""}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2999-01-01T00:00:00"}, "/expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, "/expires_at"),
        ({"secret": "mine"}, "/secret"),
    ],
)
def test_a_key_that_cannot_be(project, fields, pointer):
    body = problem(project.client.post("keys", json={"name": "k", **fields}), 422, "validation_failed")
    assert pointers(body) == [pointer]
    assert len(project.client.get("keys").json()["items"]) == 1


def test_the_operator_makes_and_closes_projects(server):
    name = new_id(Prefix.PROJECT)
    with server.operator() as operator:
        made = operator.post("projects", json={"name": name}).json()
        problem(operator.post("projects", json={"name": name}), 409, "name_taken")
        second = operator.post("keys", json={"name": "k", "project_id": made["id"]}).json()
        assert second["project_id"] == made["id"]
        assert name in [item["name"] for item in operator.get("projects").json()["items"]]
        with server.client_with(made["key"]) as admin, server.client_with(second["key"]) as writer:
            assert [item["id"] for item in admin.get("projects").json()["items"]] == [made["id"]]
            assert writer.get("models").json()["items"] == []
            seen = [item["action"] for item in admin.get("audit").json()["items"]]
            assert seen == ["key.created", "key.created", "project.created"]
            assert operator.delete(f"projects/{made['id']}").status_code == 204
            for client in (admin, writer):
                problem(client.get("models"), 401, "unauthenticated")
        problem(operator.post("keys", json={"name": "k", "project_id": made["id"]}), 409, "conflict")
        own = next(item for item in every(operator, "projects") if item["name"] == "default")
        problem(operator.delete(f"projects/{own['id']}"), 409, "conflict")
        assert operator.get("audit").json()["items"][0]["action"] == "project.revoked"


def test_nothing_is_made_in_a_project_that_was_closed_at_another_server(server):
    """A key is remembered there for a moment, and what it would queue nobody could cancel any more."""
    project, objective = server.project(), {"max_drop": 0.1}
    body = {"model_id": project.add_model(), "dataset_id": project.add_dataset()}
    hook = {"url": "https://receiver.invalid/", "events": ["job.succeeded"]}
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "4"}
    cancelled = project.queued()
    assert project.client.post(f"jobs/{cancelled}:cancel").status_code == 202
    with (
        serving(server.parts.settings.data) as other,
        server.operator() as operator,
        other.client_with(project.key) as client,
    ):
        assert client.get("jobs").status_code == 200
        assert operator.delete(f"projects/{project.id}").status_code == 204
        problem(client.post("jobs", json={**body, "recipe": [PRUNE]}), 401, "unauthenticated")
        problem(client.post("sweeps", json={**body, "objective": objective}), 401, "unauthenticated")
        problem(client.post(f"jobs/{cancelled}:retry"), 401, "unauthenticated")
        problem(client.post("models?name=m", content=pt2(), headers=OCTETS), 401, "unauthenticated")
        problem(client.post("uploads", headers=tus), 401, "unauthenticated")
        problem(client.post("webhooks", json=hook), 401, "unauthenticated")
    project.client.close()
    with server.parts.readers() as session:
        states = session.scalars(select(JobRow.state).where(JobRow.project_id == project.id)).all()
    assert states == ["cancelled"]


def test_the_trail_tells_who_did_what(project):
    model, dataset = project.add_model(), project.add_dataset()
    job = project.queued(model_id=model, dataset_id=dataset)
    key = project.client.post("keys", json={"name": "k"}).json()["id"]
    response = project.client.post(f"jobs/{job}:cancel")
    problem(project.client.post(f"jobs/{job}:cancel"), 409, "job_ended")
    for path in (f"jobs/{job}", f"models/{model}", f"datasets/{dataset}", f"keys/{key}"):
        assert project.client.delete(path).status_code == 204
    assert acts(project)[:-1] == [
        ("key.revoked", key),
        ("dataset.deleted", dataset),
        ("model.deleted", model),
        ("job.deleted", job),
        ("job.cancelled", job),
        ("key.created", key),
    ]
    item = project.client.get("audit", params={"limit": 5}).json()["items"][4]
    assert (item["key_id"], item["request_id"]) == (project.key.partition(".")[0], response.headers["x-request-id"])
    assert project.client.get("audit", params={"limit": 1}).json()["next_cursor"] is not None
