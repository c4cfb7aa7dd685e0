"""What operators ask, and what is missing when the service cannot take a job."""

import signal
import subprocess
import time
from contextlib import ExitStack
from datetime import UTC, datetime

import httpx
import pytest
from sqlalchemy import text

from app import queue
from app.db import workers
from app.embedded import broker_command, broker_socket, wait_for_broker
from tests.factories import pt2
from tests.serving import problem, serving


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    data = tmp_path_factory.mktemp("broker")
    path = broker_socket(data)
    process = subprocess.Popen(broker_command(data, path))
    wait_for_broker(path, process)
    yield f"redis+socket://{path}"
    process.terminate()
    process.wait(10)


def seen(sessions, queue):
    with sessions.begin() as session:
        workers.seen(session, f"{queue}@test", queue=queue, targets=[], isolation="bubblewrap", now=datetime.now(UTC))


def test_a_service_is_alive_whatever_is_missing(server):
    response = httpx.get(f"{server.url}/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


def test_readiness_names_each_part_that_is_missing(broker, tmp_path):
    with serving(tmp_path, broker_url=broker) as server, httpx.Client(base_url=server.url) as client:

        def missing():
            response = client.get("/readyz")
            if response.status_code == 200:
                return None
            assert int(response.headers["retry-after"]) > 0
            return problem(response, 503, "unavailable")["detail"]

        assert "inspect" in missing()
        seen(server.parts.sessions, "inspect")
        assert "cpu" in missing()
        assert "inspect" not in missing()
        seen(server.parts.sessions, "cpu")
        assert missing() is None
        objects = tmp_path / "objects"
        objects.rename(tmp_path / "elsewhere")
        objects.write_text("a file where the folder should be")
        assert missing().startswith("storage:")
        objects.unlink()
        with server.parts.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
        assert "migrations" in missing()


def test_a_broker_that_falls_silent_is_left_for_the_one_that_takes_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "ANSWER_SECONDS", 0.5)
    path = broker_socket(tmp_path)
    with ExitStack() as brokers:

        def start():
            process = subprocess.Popen(broker_command(tmp_path, path))
            brokers.callback(process.wait, 10)
            brokers.callback(process.kill)
            wait_for_broker(path, process)
            return process

        first = start()
        with serving(tmp_path, broker_url=f"redis+socket://{path}") as server:
            project = server.project()

            def published():
                until = time.monotonic() + 10
                while (left := project.kept()[4]) and time.monotonic() < until:
                    time.sleep(0.05)
                return left == 0

            with project.client:
                ids = {"model_id": project.add_model(), "dataset_id": project.add_dataset()}
                project.queued(**ids)
                assert published()
                first.send_signal(signal.SIGSTOP)
                path.unlink()
                second = start()
                project.queued(**ids)
                assert published()
                second.send_signal(signal.SIGSTOP)
                project.queued(**ids)
                time.sleep(0.2)
            began = time.monotonic()
        assert time.monotonic() - began < 5, "it stops all the same"


def test_readiness_misses_the_broker(server):
    body = problem(httpx.get(f"{server.url}/readyz", timeout=10), 503, "unavailable")
    assert "broker:" in body["detail"]
    assert "database:" not in body["detail"]


def test_readiness_misses_the_database(tmp_path):
    with serving(tmp_path) as server:
        server.parts.engine.dispose()
        (tmp_path / "winnow.db").unlink()
        (tmp_path / "winnow.db").mkdir()
        for leftover in tmp_path.glob("winnow.db-*"):
            leftover.unlink()
        body = problem(httpx.get(f"{server.url}/readyz", timeout=10), 503, "unavailable")
        assert "database: The database does not answer." in body["detail"]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "once"}], ids=["plain", "idempotent"])
def test_a_request_meets_a_database_that_is_away(tmp_path, key):
    with serving(tmp_path) as server, server.project().client as client:
        assert client.get("models").status_code == 200
        server.parts.engine.dispose()
        (tmp_path / "winnow.db").rename(tmp_path / "kept.db")
        (tmp_path / "winnow.db").mkdir()
        server.parts.keyring.forget()
        asked = (client.post("keys", json={"name": "k"}, headers=key), client.get("models"))
        for response in asked:
            assert problem(response, 503, "unavailable")["detail"] == "The database cannot be reached."
            assert int(response.headers["retry-after"]) > 0
        assert httpx.get(f"{server.url}/metrics").status_code == 503
        (tmp_path / "winnow.db").rmdir()
        (tmp_path / "kept.db").rename(tmp_path / "winnow.db")
        assert client.post("keys", json={"name": "k"}, headers=key).status_code == 201


def test_a_request_meets_a_storage_that_is_away(tmp_path):
    with serving(tmp_path) as server:
        project = server.project()
        with project.client as client:
            path = f"models/{project.upload('models', pt2()).json()['id']}/content"
            objects = tmp_path / "objects"
            objects.rename(tmp_path / "kept")
            objects.write_text("a file where the folder should be")
            problem(client.get(path), 503, "unavailable")
            objects.unlink()
            (tmp_path / "kept").rename(objects)
            assert client.get(path).status_code == 200


def test_metrics_tell_of_jobs_messages_and_workers(tmp_path):
    with serving(tmp_path) as server:
        project = server.project()
        job = project.queued()
        project.queued(queue="gpu")
        project.claim(job)
        seen(server.parts.sessions, "cpu")
        response = httpx.get(f"{server.url}/metrics")
        project.client.close()
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert 'winnow_jobs{queue="cpu",state="running"} 1.0' in lines
    assert 'winnow_jobs{queue="gpu",state="queued"} 1.0' in lines
    assert 'winnow_workers{queue="cpu"} 1.0' in lines
    assert "winnow_outbox_messages 6.0" in lines  # four inspections and two jobs


def test_the_documentation_is_served(server):
    page = httpx.get(f"{server.url}/docs")
    assert page.status_code == 200
    assert "openapi.json" in page.text
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert document["info"]["title"] == "Winnow"
