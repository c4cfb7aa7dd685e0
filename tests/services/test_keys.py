"""Keys as an operator makes them."""

from app.db import migrations
from app.db.engine import make_engine, make_sessions
from app.services import callers, keys


def test_the_first_key_of_a_new_database_makes_its_project(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path}/winnow.db")
    migrations.upgrade(engine)
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        first = keys.create_default_key(session, ["read"], name="mine")
        second = keys.create_default_key(session, ["read", "write"], name="yours")
    with sessions() as session:
        found = [callers.authenticate(session, token) for token in (first, second)]
    assert found[0].project_id == found[1].project_id
    assert [caller.scopes for caller in found] == [{"read"}, {"read", "write"}]
    engine.dispose()
