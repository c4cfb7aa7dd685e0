"""What is gone by the time that a request gets to it, on SQLite and PostgreSQL alike: 404, and no error of ours."""

from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from sqlalchemy import event

from app.db import jobs, projects, resumable, webhooks
from app.db.tables import JobRow, WebhookRow
from app.domain.errors import NotFound
from tests.factories import pt2
from tests.serving import problem
from tests.tus import TUS, begin, send, whole


def answered_behind(sessions, take_away, ask):
    """Ask for something that is being taken away; the answer has to wait for that."""
    with ThreadPoolExecutor() as pool:
        with sessions.begin() as session:
            take_away(session)
            answer = pool.submit(ask)
            with pytest.raises(TimeoutError):
                answer.result(0.3)
        return answer.result()


@pytest.fixture
def webhook(project):
    body = {"url": "https://receiver.invalid/", "events": ["job.succeeded"]}
    return project.client.post("webhooks", json=body).json()["id"]


@pytest.mark.parametrize("action", [":ping", ":rotate", ":enable"])
def test_an_action_on_a_webhook_that_is_being_removed(project, sessions, webhook, action):
    def remove(session):
        webhooks.delete(session, session.get(WebhookRow, webhook))

    answer = answered_behind(sessions, remove, lambda: project.client.post(f"webhooks/{webhook}{action}"))
    problem(answer, 404, "not_found")


def test_a_webhook_is_removed_once(project, sessions, webhook):
    def remove(session):
        projects.lock(session, project.id)
        webhooks.delete(session, session.get(WebhookRow, webhook))

    problem(answered_behind(sessions, remove, lambda: project.client.delete(f"webhooks/{webhook}")), 404, "not_found")
    assert "webhook.deleted" not in [it["action"] for it in project.client.get("audit").json()["items"]]


def test_a_piece_of_an_upload_that_is_being_deleted(project, sessions):
    upload = begin(project, 10)
    answer = answered_behind(
        sessions,
        lambda session: resumable.take(session, project.id, upload),
        lambda: send(project, upload, 0, b"0123456789"),
    )
    problem(answer, 404, "not_found")


@pytest.fixture
def once():
    """Give a way to do something when the service first comes to a point, and not when that leads there again."""
    listening = []

    def at(target, name, do, *, where=lambda *_: True):
        waiting = [do]

        def listen(*given):
            if waiting and where(*given):
                waiting.pop()()

        listening.append((target, name, listen))
        event.listen(*listening[-1])

    yield at
    for it in listening:
        event.remove(*it)


def test_an_upload_that_is_deleted_while_its_bytes_are_read(project):
    parts, upload = project.server.parts, whole(project, pt2())

    async def make():
        async with parts.uploads.collected(project.id, upload) as incoming:
            with parts.storage.open(incoming.key) as file:
                assert project.client.delete(f"uploads/{upload}", headers=TUS).status_code == 204
                file.read()

    with pytest.raises(NotFound, match="has been used or deleted meanwhile"):
        anyio.run(make)


def test_two_models_are_not_made_of_one_upload(project, once):
    asked, others, begun = {"name": "m", "upload_id": whole(project, pt2())}, [], []

    def keeping(*_):
        begun.append(True)
        return len(begun) == 2  # the first writes down that all is there

    once(
        project.server.parts.sessions,
        "after_transaction_create",
        lambda: others.append(project.client.post("models", json=asked)),
        where=keeping,
    )
    with project.client_with(project.key) as client:
        assert client.post("models", json=asked).status_code == 201
    problem(others[0], 423, "upload_locked")
    problem(project.client.post("models", json=asked), 404, "not_found")
    assert project.kept()[:2] == (1, 1)


def test_a_job_that_is_deleted_while_it_is_cancelled(engine, project, sessions, once):
    if engine.dialect.name == "sqlite":
        pytest.skip("who cancels keeps out who would delete")
    job = project.queued()
    project.client.post(f"jobs/{job}:cancel")

    def delete():
        with sessions.begin() as session:
            jobs.delete(session, session.get(JobRow, job))

    def cancelling(_, __, statement, *___):
        return statement.startswith("UPDATE jobs")

    once(project.server.parts.engine, "before_cursor_execute", delete, where=cancelling)
    problem(project.client.post(f"jobs/{job}:cancel"), 404, "not_found")
