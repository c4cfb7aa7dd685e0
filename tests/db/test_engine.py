import time

import pytest
from sqlalchemy import event, text

from app.db.engine import make_sessions, reading


def test_a_connection_that_the_server_ended_is_replaced_before_it_is_used(engine):
    if engine.dialect.name == "sqlite":
        pytest.skip("there is no server that could end it")
    ended = engine.execution_options()
    with engine.connect() as other:
        with ended.connect() as connection:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
        other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        other.commit()
        deadline = time.monotonic() + 60
        while other.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}):
            assert time.monotonic() < deadline
            other.commit()  # within a transaction the answer would stay the same
            time.sleep(0.01)
        time.sleep(1.1)  # for so long it is trusted
        for _ in range(3):
            with engine.connect() as connection:
                assert connection.scalar(text("SELECT pg_backend_pid()")) != pid


def test_reading_takes_no_transaction_and_writing_is_all_or_nothing(engine):
    asked = []

    def note(*it):
        asked.append(it[2])

    with make_sessions(engine)() as session:
        session.execute(text("CREATE TABLE IF NOT EXISTS scratch (n INTEGER)"))
        session.execute(text("INSERT INTO scratch VALUES (1)"))
        session.rollback()
    event.listen(engine, "before_cursor_execute", note)
    with reading(engine).connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    event.remove(engine, "before_cursor_execute", note)
    assert asked == (["BEGIN", "SELECT 1"] if engine.dialect.name == "sqlite" else ["SELECT 1"])
    with engine.connect() as connection, pytest.raises(Exception, match="scratch"):
        connection.execute(text("SELECT * FROM scratch"))
