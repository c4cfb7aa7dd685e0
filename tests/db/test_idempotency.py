"""Claims of an ``Idempotency-Key`` by requests side by side, on SQLite and PostgreSQL alike."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from app.api import idempotency as passages
from app.db import projects
from app.db.engine import make_sessions
from app.db.tables import IdempotencyRow, ProjectRow
from app.domain.errors import IdempotencyInFlight
from app.domain.ids import Prefix, new_id
from app.services import idempotency
from app.services.callers import Caller
from app.services.idempotency import Answer, Claim
from tests.tus import until

ANSWER = Answer("f" * 64, 202, {"location": "/there"}, b"{}")


@pytest.fixture
def caller(sessions):
    project = ProjectRow(id=new_id(Prefix.PROJECT), name=new_id(Prefix.PROJECT), created_at=datetime.now(UTC))
    with sessions.begin() as session:
        projects.add(session, project)
    return Caller(new_id(Prefix.KEY), project.id, frozenset({"write"}))


@pytest.fixture
def key():
    return secrets.token_hex(8)


def test_one_of_many_claims(sessions, caller, key):
    found, gate = [], threading.Barrier(8)

    def begin():
        gate.wait()
        try:
            found.append(idempotency.begin(sessions, caller, key))
        except IdempotencyInFlight:
            found.append(None)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (claim,) = [it for it in found if it is not None]
    idempotency.complete(sessions, claim, ANSWER)
    assert idempotency.begin(sessions, caller, key) == ANSWER
    assert len(found) == 8


def expiry(sessions, key):
    with sessions() as session:
        return session.scalar(select(IdempotencyRow.expires_at).where(IdempotencyRow.key == key))


def let_run_out(sessions, key):
    with sessions.begin() as session:
        record = update(IdempotencyRow).where(IdempotencyRow.key == key)
        session.execute(record.values(expires_at=datetime.now(UTC)))


def test_a_dead_request_loses_its_claim_and_writes_nothing(sessions, caller, key):
    dead = idempotency.begin(sessions, caller, key)
    let_run_out(sessions, key)
    mine = idempotency.begin(sessions, caller, key)
    assert isinstance(mine, Claim)
    idempotency.complete(sessions, dead, ANSWER)
    idempotency.abandon(sessions, dead)
    with pytest.raises(IdempotencyInFlight):
        idempotency.begin(sessions, caller, key)
    idempotency.abandon(sessions, mine)
    assert isinstance(idempotency.begin(sessions, caller, key), Claim)


def test_an_answer_is_there_with_what_it_tells_of_or_not_at_all(sessions, caller, key):
    claim = idempotency.begin(sessions, caller, key)
    with sessions() as session:
        assert idempotency.fill(session, claim, ANSWER)
        session.rollback()
    with pytest.raises(IdempotencyInFlight):
        idempotency.begin(sessions, caller, key)
    with sessions.begin() as session:
        assert idempotency.fill(session, claim, ANSWER)
    idempotency.abandon(sessions, claim)  # whatever went wrong behind the commit
    assert idempotency.begin(sessions, caller, key) == ANSWER


def test_a_claim_that_is_renewed_stays(sessions, engine, caller, key):
    claim = idempotency.begin(sessions, caller, key)
    let_run_out(sessions, key)
    idempotency.renew(sessions, claim)
    with pytest.raises(IdempotencyInFlight):
        idempotency.begin(sessions, caller, key)
    let_run_out(sessions, key)
    readers = make_sessions(engine, read_only=True)
    assert idempotency.clear(readers, sessions, datetime.now(UTC) + timedelta(seconds=1)) >= 1
    idempotency.renew(sessions, claim)
    assert isinstance(idempotency.begin(sessions, caller, key), Claim)
    claim = idempotency.begin(sessions, caller, secrets.token_hex(8))
    idempotency.complete(sessions, claim, ANSWER)
    idempotency.renew(sessions, claim)
    idempotency.clear(readers, sessions, datetime.now(UTC) + timedelta(hours=1))
    assert idempotency.begin(sessions, caller, claim.key) == ANSWER


def test_a_request_keeps_its_claim_however_long_it_takes_behind_its_body(engine, sessions, project, key, monkeypatch):
    if engine.dialect.name == "sqlite":
        pytest.skip("who holds it up holds up whoever would put its claim off")
    monkeypatch.setattr(passages, "_RENEW_SECONDS", 0.05)
    asked = {"url": "https://example.org/", "events": ["job.succeeded"]}
    with ThreadPoolExecutor() as pool:
        with sessions.begin() as holder:
            projects.lock(holder, project.id)
            making = pool.submit(project.client.post, "webhooks", json=asked, headers={"Idempotency-Key": key})
            for _ in range(3):
                until(lambda: expiry(sessions, key))
                ends = expiry(sessions, key)
                until(lambda ends=ends: expiry(sessions, key) > ends)
            assert not making.done()
        answer = making.result()
    assert answer.status_code == 201, answer.text
    again = project.client.post("webhooks", json=asked, headers={"Idempotency-Key": key})
    assert (again.status_code, again.json()["id"]) == (201, answer.json()["id"])
