"""Keys as an operator makes them, and as they are remembered between requests."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db import migrations
from app.db.engine import make_engine, make_sessions
from app.db.tables import KeyRow
from app.domain.errors import Unauthenticated
from app.services import callers, keys
from app.services.callers import TRUSTED_SECONDS, Keyring


@pytest.fixture
def sessions(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path}/winnow.db")
    migrations.upgrade(engine)
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture(autouse=True)
def trusting(monkeypatch):
    """Trust what is remembered for as long as a test takes: how long that is, only one of them is about."""
    monkeypatch.setattr(callers, "TRUSTED_SECONDS", 600.0)


def made(sessions, *scopes):
    with sessions.begin() as session:
        return keys.create_default_key(session, scopes, name="mine")


def change(sessions, token, **columns):
    """Change a key as another process does."""
    with sessions.begin() as session:
        for name, value in columns.items():
            setattr(session.get(KeyRow, token.partition(".")[0]), name, value)


def test_the_first_key_of_a_new_database_makes_its_project(sessions):
    first, second = made(sessions, "read"), made(sessions, "read", "write")
    found = [Keyring(sessions).authenticate(token) for token in (first, second)]
    assert found[0].project_id == found[1].project_id
    assert [caller.scopes for caller in found] == [{"read"}, {"read", "write"}]


def test_a_key_is_remembered_for_whoever_knows_its_secret_and_for_nobody_else(sessions):
    token, keyring = made(sessions, "read"), Keyring(sessions)
    other = made(sessions, "admin")
    assert keyring.recall(token) is None
    caller = keyring.authenticate(token)
    assert keyring.recall(token) == caller
    key_id, _, secret = token.partition(".")
    for wrong in (key_id, f"{key_id}.", f"{key_id}.x{secret}", f"{key_id}.{other.partition('.')[2]}", secret, "", None):
        assert keyring.recall(wrong) is None
        with pytest.raises(Unauthenticated):
            keyring.authenticate(wrong)
    assert keyring.recall(other) is None
    assert keyring.recall(token) == caller


def test_a_key_that_ends_elsewhere_is_remembered_for_less_than_a_second(sessions, monkeypatch):
    token, keyring = made(sessions, "read"), Keyring(sessions)
    keyring.authenticate(token)
    change(sessions, token, revoked_at=datetime.now(UTC))
    assert keyring.recall(token) is not None
    assert TRUSTED_SECONDS < 1
    monkeypatch.setattr(callers, "TRUSTED_SECONDS", 0.0)  # as if so much time had passed
    assert keyring.recall(token) is None
    with pytest.raises(Unauthenticated):
        keyring.authenticate(token)


def test_a_key_that_expires_while_it_is_remembered_is_dead_at_once(sessions):
    token, keyring = made(sessions, "read"), Keyring(sessions)
    change(sessions, token, expires_at=datetime.now(UTC) + timedelta(minutes=10))
    caller = keyring.authenticate(token)
    assert keyring.recall(token) == caller
    _, remembered = keyring._known[caller.key_id]
    remembered.expires_at = datetime.now(UTC)  # as if ten minutes had passed
    assert keyring.recall(token) is None


def test_what_was_read_before_keys_ended_is_not_remembered(sessions):
    token = made(sessions, "read")

    class Interrupted:
        """Sessions whose reader is overtaken by a revocation, as one in another thread may be."""

        def __call__(self):
            keyring.forget()
            return sessions()

    keyring = Keyring(Interrupted())
    assert keyring.authenticate(token).scopes == {"read"}
    assert keyring.recall(token) is None


def test_a_ring_holds_so_many_keys_and_no_more(sessions, monkeypatch):
    monkeypatch.setattr(callers, "_MOST_KNOWN", 2)
    keyring, tokens = Keyring(sessions), [made(sessions, "read") for _ in range(3)]
    found = [keyring.authenticate(token) for token in tokens]
    assert [keyring.recall(token) for token in tokens] == [None, *found[1:]]
