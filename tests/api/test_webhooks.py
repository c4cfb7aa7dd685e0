"""Webhooks over HTTP, with a real receiver."""

import json
import socket
import time

import pytest
from sqlalchemy import select
from standardwebhooks.webhooks import WebhookVerificationError

from app.db.tables import DeliveryRow, WebhookRow
from tests.receiver import receiving, verified
from tests.serving import every, pointers, problem, serving

EVENTS = ["job.succeeded", "job.failed", "job.cancelled", "job.timed_out"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # So patient that no stall of the machine ends an attempt.
    folder = tmp_path_factory.mktemp("webhooks")
    with serving(folder, webhook_private_addresses=True, webhook_timeout_seconds=60) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """Give a server that waits for an answer for a second alone."""
    folder = tmp_path_factory.mktemp("hasty")
    with serving(folder, webhook_private_addresses=True, webhook_timeout_seconds=1) as server:
        yield server


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


def make(project, url, events=EVENTS):
    response = project.client.post("webhooks", json={"url": url, "events": events})
    assert response.status_code == 201, response.text
    return response.json()


def settled(project, webhook_id, count=1, seconds=60.0):
    """Wait until so many deliveries have been tried, and give the log."""
    deadline = time.monotonic() + seconds
    while True:
        items = project.client.get(f"webhooks/{webhook_id}/deliveries").json()["items"]
        done = [it for it in items if it["state"] != "pending" or it["error"]]
        if len(done) >= count:
            return items
        assert time.monotonic() < deadline, items
        time.sleep(0.02)


def test_a_job_that_ends_is_told_of_signed_and_logged(project, receiver):
    webhook = make(project, receiver.url)
    assert webhook["secret"].startswith("whsec_")
    job_id = project.queued(name="for the edge", labels={"team": "vision"})
    project.claim(job_id)
    project.finish(job_id, summary={"size_ratio": 8.0})
    (request,) = receiver.wait()
    body = verified(request, webhook["secret"])
    job = project.client.get(f"jobs/{job_id}").json()
    assert body["type"] == "job.succeeded"
    assert body["timestamp"].endswith("Z")
    assert body["data"] == {name: job[name] for name in body["data"]}
    assert {"id", "state", "labels", "summary", "failure", "ended_at"} <= body["data"].keys()
    headers = {name.lower(): value for name, value in request[1].items()}
    assert headers["content-type"] == "application/json"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    (item,) = settled(project, webhook["id"])
    assert item["id"] == headers["webhook-id"]
    assert (item["state"], item["attempts"], item["response_status"], item["error"]) == ("delivered", 1, 200, None)
    assert item["next_attempt_at"] is None
    whole = project.client.get(f"webhooks/{webhook['id']}/deliveries/{item['id']}").json()
    assert whole == {**item, "body": body}
    with pytest.raises(WebhookVerificationError):
        verified((request[0], request[1], request[2] + b" "), webhook["secret"])


def test_only_what_was_subscribed_is_told(project, receiver):
    make(project, receiver.url, ["job.cancelled", "model.ready", "dataset.ready", "model.rejected"])
    job_id = project.queued()  # its model and its data set become ready
    project.claim(job_id)
    project.finish(job_id)
    project.client.post(f"jobs/{project.queued(model_id=None)}:cancel")
    kinds = sorted(json.loads(body)["type"] for _, _, body in receiver.wait(5))
    assert kinds == ["dataset.ready", "dataset.ready", "job.cancelled", "model.ready", "model.ready"]
    time.sleep(0.7)
    assert len(receiver.got) == 5


def test_other_projects_hear_nothing(project, foreign, receiver):
    make(foreign, receiver.url)
    with receiving() as own:
        webhook = make(project, own.url)
        project.client.post(f"jobs/{project.queued()}:cancel")
        own.wait()
        settled(project, webhook["id"])
    assert receiver.got == []


def test_a_ping_and_a_redelivery_have_the_same_id(project, receiver):
    webhook = make(project, receiver.url)
    response = project.client.post(f"webhooks/{webhook['id']}:ping")
    assert response.status_code == 202
    delivery = response.json()
    assert response.headers["location"].endswith(f"/webhooks/{webhook['id']}/deliveries/{delivery['id']}")
    receiver.wait()
    settled(project, webhook["id"])
    again = project.client.post(f"webhooks/{webhook['id']}/deliveries/{delivery['id']}:redeliver")
    assert (again.status_code, again.json()["state"]) == (202, "pending")
    first, second = receiver.wait(2)
    assert verified(first, webhook["secret"]) == verified(second, webhook["secret"])
    assert first[1]["webhook-id"] == second[1]["webhook-id"] == delivery["id"]
    assert first[2] == second[2]
    deadline = time.monotonic() + 60
    while (item := settled(project, webhook["id"])[0])["state"] == "pending":
        assert time.monotonic() < deadline, item
    assert (item["attempts"], item["state"]) == (2, "delivered")


def test_what_fails_is_tried_again_later_and_redelivered_at_once(project, receiver):
    receiver.answer = 500
    webhook = make(project, receiver.url)
    delivery = project.client.post(f"webhooks/{webhook['id']}:ping").json()
    (item,) = settled(project, webhook["id"])
    assert (item["state"], item["response_status"], item["error"]) == ("pending", 500, "http_status")
    assert item["next_attempt_at"] > item["attempted_at"]
    assert project.client.get(f"webhooks/{webhook['id']}").json()["failing_since"] is not None
    receiver.answer = 204
    project.client.post(f"webhooks/{webhook['id']}/deliveries/{delivery['id']}:redeliver")
    receiver.wait(2)
    deadline = time.monotonic() + 60
    while project.client.get(f"webhooks/{webhook['id']}").json()["failing_since"] is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def hang(handler):
    handler.server.release.wait(60)


def trickle(handler):
    while not handler.server.release.wait(0.1):
        handler.wfile.write(b"H")


def flood(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)


def nonsense(handler):
    handler.wfile.write(b"not http at all\r\n\r\n")
    handler.close_connection = True


def elsewhere(handler):
    handler.send_response(307)
    handler.send_header("Location", "/other")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize("answer", [hang, trickle])
def test_an_answer_that_takes_too_long(hasty, receiver, answer):
    receiver.answer, project = answer, hasty.project()
    webhook = make(project, receiver.url)
    project.client.post(f"webhooks/{webhook['id']}:ping")
    (item,) = settled(project, webhook["id"])
    assert item["error"] == "timed_out"
    assert {path for path, _, _ in receiver.got} == {"/hook"}
    project.client.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (nonsense, "protocol_error"),
        (elsewhere, "redirect"),
        (503, "http_status"),
    ],
)
def test_why_an_attempt_came_to_nothing(project, receiver, answer, error):
    receiver.answer = answer
    webhook = make(project, receiver.url)
    project.client.post(f"webhooks/{webhook['id']}:ping")
    (item,) = settled(project, webhook["id"])
    assert item["error"] == error
    assert [path for path, _, _ in receiver.got] == ["/hook"]


def test_an_answer_without_end_is_not_read_to_it(project, receiver):
    receiver.answer = flood
    webhook = make(project, receiver.url)
    project.client.post(f"webhooks/{webhook['id']}:ping")
    (item,) = settled(project, webhook["id"])
    assert item["state"] == "delivered"


def test_where_nobody_listens_or_no_name_leads(project):
    with socket.socket() as deaf:
        # A port that is held, so that nobody else listens there meanwhile.
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/hook"
        for address, error in ((url, "connection_failed"), ("https://nobody.invalid/", "name_not_resolved")):
            webhook = make(project, address)
            project.client.post(f"webhooks/{webhook['id']}:ping")
            (item,) = settled(project, webhook["id"])
            assert (item["error"], item["response_status"]) == (error, None)


def test_slow_and_dead_receivers_delay_no_others(project, foreign, receiver):
    with receiving(hang) as slow:
        for _ in range(4):
            webhook = make(project, slow.url)
            for _ in range(12):
                project.client.post(f"webhooks/{webhook['id']}:ping")
        slow.wait(4)
        webhook = make(foreign, receiver.url)
        for _ in range(10):
            foreign.client.post(f"webhooks/{webhook['id']}:ping")
        # Who waited for the slow ones would wait until the end of this block, and longer.
        receiver.wait(10, 50)
        assert foreign.client.get("jobs").status_code == 200
        assert len(slow.got) < 48


def test_a_rotation_signs_with_both_secrets_for_a_day(project, receiver):
    old = make(project, receiver.url)
    response = project.client.post(f"webhooks/{old['id']}:rotate")
    assert response.headers["cache-control"] == "no-store"
    new = response.json()
    assert new["secret"] != old["secret"]
    project.client.post(f"webhooks/{old['id']}:ping")
    (request,) = receiver.wait()
    assert verified(request, old["secret"]) == verified(request, new["secret"])
    with project.server.parts.sessions.begin() as session:
        row = session.get(WebhookRow, old["id"])
        row.old_secret_until = row.created_at
    project.client.post(f"webhooks/{old['id']}:ping")
    _, request = receiver.wait(2)
    verified(request, new["secret"])
    with pytest.raises(WebhookVerificationError):
        verified(request, old["secret"])


def test_one_that_says_it_is_gone_is_disabled_until_it_is_enabled(project, receiver):
    receiver.answer = 410
    webhook = make(project, receiver.url)
    project.client.post(f"webhooks/{webhook['id']}:ping")
    (item,) = settled(project, webhook["id"])
    deadline = time.monotonic() + 60
    while (shown := project.client.get(f"webhooks/{webhook['id']}").json())["disabled_at"] is None:
        assert time.monotonic() < deadline
    problem(project.client.post(f"webhooks/{webhook['id']}:ping"), 409, "conflict")
    deliveries = f"webhooks/{webhook['id']}/deliveries"
    (item,) = project.client.get(deliveries).json()["items"]
    assert (item["state"], item["response_status"], item["next_attempt_at"]) == ("pending", 410, None)
    assert project.client.get(f"{deliveries}/{item['id']}").json()["next_attempt_at"] is None
    path = f"{deliveries}/{item['id']}:redeliver"
    problem(project.client.post(path), 409, "conflict")
    project.client.post(f"jobs/{project.queued()}:cancel")
    assert len(project.client.get(f"webhooks/{webhook['id']}/deliveries").json()["items"]) == 1
    receiver.answer = 200
    enabled = project.client.post(f"webhooks/{webhook['id']}:enable").json()
    assert enabled == {**shown, "disabled_at": None, "failing_since": None}
    project.client.post(path)
    receiver.wait(2)


def test_secrets_stand_in_one_answer_alone(project, receiver, capsys):
    key = {"Idempotency-Key": "webhook"}
    body = {"url": receiver.url, "events": ["job.failed"]}
    first, again = (project.client.post("webhooks", json=body, headers=key) for _ in range(2))
    secret = first.json()["secret"]
    assert first.headers["cache-control"] == "no-store"
    assert again.json() == {**first.json(), "secret": None}
    path = f"webhooks/{first.json()['id']}"
    project.client.post(f"{path}:ping")
    settled(project, first.json()["id"])
    shown = [project.client.get(it).text for it in ("webhooks", path, f"{path}/deliveries", "audit")]
    assert secret.removeprefix("whsec_") not in "".join(shown) + capsys.readouterr().out


def test_lists_are_paged_and_filtered(project, receiver):
    ids = [make(project, receiver.url)["id"] for _ in range(5)]
    assert [it["id"] for it in every(project.client, "webhooks", limit=2)] == ids[::-1]
    sent = [project.client.post(f"webhooks/{ids[0]}:ping").json()["id"] for _ in range(5)]
    settled(project, ids[0], 5)
    path = f"webhooks/{ids[0]}/deliveries"
    assert [it["id"] for it in every(project.client, path, limit=2, state="delivered")] == sent[::-1]
    assert project.client.get(path, params={"state": "failed"}).json() == {"items": [], "next_cursor": None}
    problem(project.client.get(path, params={"state": "lost"}), 422, "validation_failed")
    problem(project.client.get(path, params={"cursor": ids[0]}), 422, "validation_failed")


def test_a_webhook_and_its_log_are_removed(project, receiver):
    webhook = make(project, receiver.url)
    delivery = project.client.post(f"webhooks/{webhook['id']}:ping").json()
    settled(project, webhook["id"])
    assert project.client.delete(f"webhooks/{webhook['id']}").status_code == 204
    problem(project.client.get(f"webhooks/{webhook['id']}"), 404, "not_found")
    problem(project.client.get(f"webhooks/{webhook['id']}/deliveries"), 404, "not_found")
    with project.server.parts.readers() as session:
        assert session.scalar(select(DeliveryRow).where(DeliveryRow.id == delivery["id"])) is None
    actions = [it["action"] for it in project.client.get("audit").json()["items"]]
    assert actions[:2] == ["webhook.deleted", "webhook.created"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"events": ["job.failed"]}, "/url"),
        ({"url": "ftp://example.org/", "events": ["job.failed"]}, "/url"),
        ({"url": "https://", "events": ["job.failed"]}, "/url"),
        ({"url": "https://user:pass@example.org/", "events": ["job.failed"]}, "/url"),
        ({"url": "https://example.org/#part", "events": ["job.failed"]}, "/url"),
        ({"url": "https://example.org/" + "x" * 2000, "events": ["job.failed"]}, "/url"),
        ({"url": "https://example.org/", "events": []}, "/events"),
        ({"url": "https://example.org/", "events": ["job.exploded"]}, "/events/0"),
        ({"url": "https://example.org/", "events": ["job.failed"], "more": 1}, "/more"),
    ],
)
def test_refused_webhooks(project, body, pointer):
    answer = problem(project.client.post("webhooks", json=body), 422, "validation_failed")
    assert pointers(answer) == [pointer]
    assert "pass@" not in json.dumps(answer)


def test_a_project_has_so_many_and_no_more(project):
    for _ in range(20):
        make(project, "https://receiver.invalid/")
    body = {"url": "https://receiver.invalid/", "events": EVENTS}
    problem(project.client.post("webhooks", json=body), 409, "too_many_webhooks")
