"""A POST that is sent again under its ``Idempotency-Key``."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, func, select, update

from app.db.tables import (
    DatasetRow,
    IdempotencyRow,
    JobRow,
    KeyRow,
    ModelRow,
    SweepRow,
    UploadRow,
    WebhookRow,
)
from app.domain.errors import Unavailable
from app.services import idempotency
from tests.api.operations import operations
from tests.factories import PRUNE, npz, pt2
from tests.serving import OCTETS, problem, slowly


@pytest.fixture
def key():
    return {"Idempotency-Key": secrets.token_hex(8)}


def replayed(response):
    return response.headers.get("idempotency-replayed") == "true"


def record(project, key):
    with project.server.parts.readers() as session:
        query = select(IdempotencyRow).where(IdempotencyRow.key == key["Idempotency-Key"])
        return session.scalar(query.where(IdempotencyRow.project_id == project.id))


def test_a_job_is_queued_once(project, key):
    body = {"model_id": project.add_model(), "dataset_id": project.add_dataset(), "recipe": [PRUNE]}
    first, again = (project.client.post("jobs", json=body, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert (replayed(first), replayed(again)) == (False, True)
    assert again.content == first.content
    for name in ("location", "retry-after", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(project.client.get("jobs").json()["items"]) == 1
    other = project.client.post("jobs", json={**body, "name": "another"}, headers=key)
    problem(other, 422, "idempotency_key_reused")
    problem(project.client.post(f"jobs/{first.json()['id']}:cancel", headers=key), 422, "idempotency_key_reused")
    assert len(project.client.get("jobs").json()["items"]) == 1


@pytest.mark.parametrize("other", [{"Upload-Length": "20"}, {"Upload-Metadata": "filename YQ=="}])
def test_an_upload_is_begun_by_its_headers(project, key, other):
    """They are its payload: it has no body."""
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "10", **key}
    first, again = (project.client.post("uploads", headers=headers) for _ in range(2))
    assert (first.status_code, again.headers["location"]) == (201, first.headers["location"])
    problem(project.client.post("uploads", headers={**headers, **other}), 422, "idempotency_key_reused")
    assert len(project.client.get("uploads").json()["items"]) == 1


@pytest.mark.parametrize("send", [bytes, slowly], ids=["announced", "chunked"])
def test_an_upload_is_kept_once(project, key, send):
    content = pt2()
    first, again = (project.upload("models", send(content), headers=key) for _ in range(2))
    assert (first.status_code, again.status_code, replayed(again)) == (201, 201, True)
    assert again.json() == first.json()
    problem(project.upload("models", send(pt2()), headers=key), 422, "idempotency_key_reused")
    renamed = project.upload("models", send(content), headers=key, params={"name": "another"})
    problem(renamed, 422, "idempotency_key_reused")
    assert project.kept()[:2] == (1, 1)


def test_a_key_of_another_project_is_another_key(project, foreign, key):
    content = pt2()
    first = project.upload("models", content, headers=key)
    theirs = foreign.upload("models", content, headers=key)
    assert not replayed(theirs)
    assert theirs.json()["id"] != first.json()["id"]


def test_a_refusal_frees_the_key(project, key):
    ids = {"model_id": project.add_model(), "dataset_id": project.add_dataset()}
    problem(project.client.post("jobs", json=ids, headers=key), 422, "validation_failed")
    assert record(project, key) is None
    response = project.client.post("jobs", json={**ids, "recipe": [PRUNE]}, headers=key)
    assert (response.status_code, replayed(response)) == (202, False)


def test_one_in_flight_is_refused_and_the_first_goes_on(project, key):
    content = pt2()
    begun, go_on = threading.Event(), threading.Event()

    def body():
        yield content[:100]
        begun.set()
        go_on.wait(10)
        yield content[100:]

    with ThreadPoolExecutor() as pool:
        first = pool.submit(project.upload, "models", body(), headers=key)
        assert begun.wait(10)
        while record(project, key) is None:
            assert not first.done()
        refused = project.upload("models", content, headers=key)
        problem(refused, 409, "idempotency_in_flight")
        assert refused.headers["retry-after"] == "1"
        go_on.set()
        assert first.result().status_code == 201
    assert replayed(project.upload("models", content, headers=key))


def test_many_at_once_do_it_once(project, key):
    body = {"model_id": project.add_model(), "dataset_id": project.add_dataset(), "recipe": [PRUNE]}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: project.client.post("jobs", json=body, headers=key), range(16)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert len(project.client.get("jobs").json()["items"]) == 1


def test_a_secret_is_not_kept_for_a_replay(project, key):
    first, again = (project.client.post("keys", json={"name": "k"}, headers=key) for _ in range(2))
    secret = first.json()["key"].partition(".")[2]
    assert replayed(again)
    assert again.json() == {**first.json(), "key": None}
    assert secret.encode() not in record(project, key).body
    assert len(project.client.get("keys").json()["items"]) == 2


def test_a_replay_is_for_keys_that_may_as_much(project, key):
    project.client.post("keys", json={"name": "k"}, headers=key)
    with project.client_with(project.make_key(["read", "write"])) as client:
        problem(client.post("keys", json={"name": "k"}, headers=key), 403, "forbidden")


@pytest.mark.parametrize("value", ["", "k" * 256, "k\u00e9".encode("latin-1")])
def test_a_key_that_is_none(project, value):
    problem(
        project.client.post("keys", json={"name": "k"}, headers={"Idempotency-Key": value}), 400, "malformed_request"
    )


def test_what_has_expired_is_forgotten(project, key):
    parts = project.server.parts
    first = project.client.post("keys", json={"name": "k"}, headers=key)
    kept_until = record(project, key).expires_at
    assert timedelta(hours=23, minutes=59) < kept_until - datetime.now(UTC) <= timedelta(hours=24)
    with parts.sessions.begin() as session:
        session.merge(record(project, key)).expires_at = datetime.now(UTC)
    second = project.client.post("keys", json={"name": "k"}, headers=key)
    assert not replayed(second)
    assert second.json()["id"] != first.json()["id"]
    assert idempotency.clear(parts.readers, parts.sessions, record(project, key).expires_at + timedelta(seconds=1)) > 0
    assert record(project, key) is None


def test_every_post_takes_it():
    posts = [operation for operation in operations() if operation.method == "POST"]
    assert len(posts) > 5
    assert [str(it) for it in posts if "Idempotency-Key" not in it.headers] == []


@pytest.fixture
def dies_after_commit(project):
    """Give a way to let the process of the next writing request die the moment it has committed what it made."""
    sessions = project.server.parts.sessions

    @contextmanager
    def dying(table):
        def die(session):
            with project.server.parts.readers() as reader:
                made = reader.scalar(select(func.count()).select_from(table).where(table.project_id == project.id))
            if made > before:
                raise Unavailable("It died behind the commit.")

        with project.server.parts.readers() as reader:
            before = reader.scalar(select(func.count()).select_from(table).where(table.project_id == project.id))
        event.listen(sessions, "after_commit", die)
        try:
            yield
        finally:
            event.remove(sessions, "after_commit", die)

    return dying


@pytest.mark.parametrize("noun", ["jobs", "sweeps", "models", "datasets", "uploads", "webhooks", "keys"])
def test_what_dies_behind_its_commit_is_not_done_again(project, key, dies_after_commit, noun):
    ids = {"model_id": project.add_model(), "dataset_id": project.add_dataset()}
    budget = {"trials": 1, "seconds": 60}
    sent = {
        "jobs": {"json": {**ids, "recipe": [PRUNE]}},
        "sweeps": {"json": {**ids, "objective": {"metric": "accuracy", "max_drop": 0.1}, "budget": budget}},
        "models": {"content": pt2(), "params": {"name": "n"}, "headers": OCTETS},
        "datasets": {"content": npz(), "params": {"name": "n"}, "headers": OCTETS},
        "uploads": {"headers": {"Tus-Resumable": "1.0.0", "Upload-Length": "9"}},
        "webhooks": {"json": {"url": "https://example.org/", "events": ["job.succeeded"]}},
        "keys": {"json": {"name": "k"}},
    }[noun]
    tables = {
        "jobs": JobRow,
        "sweeps": SweepRow,
        "models": ModelRow,
        "datasets": DatasetRow,
        "uploads": UploadRow,
        "webhooks": WebhookRow,
        "keys": KeyRow,
    }
    asked = {**sent, "headers": {**sent.get("headers", {}), **key}}
    with dies_after_commit(tables[noun]):
        assert project.client.post(noun, **asked).status_code == 503
    again = project.client.post(noun, **asked)
    assert (again.status_code, replayed(again)) == (202 if noun in {"jobs", "sweeps"} else 201, True)
    made = again.headers["location"].rpartition("/")[2]
    with project.server.parts.readers() as session:
        found = session.scalars(select(tables[noun].id).where(tables[noun].project_id == project.id)).all()
    assert made in found
    assert len(found) == {"models": 2, "datasets": 2, "keys": 2}.get(noun, 1)


def test_a_job_whose_claim_was_lost_meanwhile_is_not_queued(project, key):
    """The request took longer than its lease, so that another may have been carried out in its place."""
    body = {"model_id": project.add_model(), "dataset_id": project.add_dataset(), "recipe": [PRUNE]}
    sessions = project.server.parts.sessions

    def lose(_, __, connection):
        connection.execute(update(IdempotencyRow).where(IdempotencyRow.project_id == project.id).values(token="theirs"))

    event.listen(sessions, "after_begin", lose)
    try:
        problem(project.client.post("jobs", json=body, headers=key), 409, "idempotency_in_flight")
    finally:
        event.remove(sessions, "after_begin", lose)
    assert project.client.get("jobs").json()["items"] == []
