"""A service that is killed between an event and its delivery loses none."""

import json
import time
from datetime import UTC, datetime

from sqlalchemy import update

from app.db.engine import make_engine, make_sessions
from app.db.tables import DeliveryRow
from app.settings import Settings
from benchmarks.listeners import running_job
from benchmarks.upload import api
from tests.receiver import receiving, verified


def test_what_was_committed_is_delivered_by_the_next_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WINNOW_WEBHOOK_PRIVATE_ADDRESSES", "true")
    engine = make_engine(Settings(data=tmp_path).database_url)
    sessions = make_sessions(engine)
    with receiving(lambda handler: handler.server.release.wait(60)) as receiver:
        with api(tmp_path) as (client, process, _):
            key = client.headers["authorization"]
            headers = {"Content-Type": "application/json"}
            body = {"url": receiver.url, "events": ["job.cancelled", "job.failed"]}
            webhook = client.post("webhooks", json=body, headers=headers).json()
            job_id = running_job(client, sessions)
            spec = client.get(f"jobs/{job_id}").json()
            asked = {name: spec[name] for name in ("model_id", "dataset_id", "recipe")}
            ids = [client.post("jobs", json=asked, headers=headers).json()["id"] for _ in range(3)]
            client.post(f"jobs/{ids[0]}:cancel")
            receiver.wait()  # underway, and without an answer
            client.post(f"jobs/{ids[1]}:cancel")
            client.post(f"jobs/{ids[2]}:cancel")
            process.kill()
            process.wait()
        receiver.answer = 200
        receiver.got.clear()
        with sessions.begin() as session:
            # As if the lease of what was underway were over.
            session.execute(update(DeliveryRow).values(due_at=datetime.now(UTC)))
        with api(tmp_path) as (client, _, _):
            client.headers["authorization"] = key
            got = receiver.wait(3)
            assert {verified(it, webhook["secret"])["data"]["id"] for it in got} == set(ids)
            assert len({json.loads(content)["data"]["id"] for _, _, content in got}) == len(got)
            path = f"webhooks/{webhook['id']}/deliveries"
            deadline = time.monotonic() + 60
            while [it["state"] for it in client.get(path).json()["items"]] != ["delivered"] * 3:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    engine.dispose()
