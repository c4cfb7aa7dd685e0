"""Resumable uploads on SQLite and PostgreSQL alike: rows that move on, reservations, and what a list costs."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db import projects, resumable
from app.db.tables import ProjectRow, UploadRow
from app.domain.ids import Prefix, new_id
from tests.factories import pt2
from tests.serving import statements
from tests.tus import begin, offset_of, send, whole

NOW = datetime.now(UTC)


@pytest.fixture
def project_id(sessions):
    row = ProjectRow(id=new_id(Prefix.PROJECT), name=new_id(Prefix.PROJECT), created_at=NOW)
    with sessions.begin() as session:
        projects.add(session, row)
    return row.id


def add(sessions, project_id, size=10, hours=1):
    row = UploadRow(
        id=new_id(Prefix.UPLOAD),
        project_id=project_id,
        size_bytes=size,
        details="",
        created_at=NOW,
        expires_at=NOW + timedelta(hours=hours),
    )
    with sessions.begin() as session:
        resumable.add(session, row)
    return row.id


def test_an_upload_moves_on_from_where_it_stands_alone(sessions, project_id):
    upload = add(sessions, project_id)
    for start, moved in ((3, False), (0, True), (0, False)):
        with sessions.begin() as session:
            assert resumable.advance(session, upload, start, {"offset_bytes": 4}) is moved
    with sessions.begin() as session:
        for start, key in ((4, "b"), (0, "a")):
            resumable.add_piece(session, upload, start, key)
    with sessions.begin() as session:
        assert resumable.piece_keys(session, upload) == ["a", "b"]
        assert resumable.take(session, project_id, upload)
        assert not resumable.take(session, project_id, upload)
        assert resumable.piece_keys(session, upload) == []


def test_what_is_underway_is_summed_up_and_what_expired_is_named_once(sessions, project_id):
    ids = [add(sessions, project_id, size=2**40, hours=hours) for hours in (1, 2, 3)]
    then = NOW + timedelta(hours=2, minutes=1)
    with sessions.begin() as session:
        assert resumable.reserved_bytes(session, project_id) == 3 * 2**40
        assert resumable.get(session, project_id, ids[0], then) is None
        found = [it for it in resumable.expired(session, then, 1000) if it in ids]
        assert found == ids[:2]
        assert set(resumable.expire(session, ids, then)) == set(ids[:2])
        assert resumable.known(session, ids) == {ids[2]}
        assert [row.id for row in resumable.listed(session, project_id, NOW, before=None, limit=9)] == ids[2:]


def test_the_protocol_on_this_database(project):
    content = pt2()
    upload = begin(project, len(content))
    assert send(project, upload, 0, content[:99]).status_code == 204
    assert send(project, upload, 0, content[:99]).status_code == 409
    assert offset_of(project, upload) == 99
    assert send(project, upload, 99, content[99:]).status_code == 204
    assert project.client.post("models", json={"name": "m", "upload_id": upload}).status_code == 201


def test_a_list_of_many_costs_as_many_statements_as_one_of_few(project):
    def count():
        with statements(project.server) as asked:
            assert project.client.get("uploads").status_code == 200
        return sum(statement.lstrip().startswith("SELECT uploads") for statement in asked)

    whole(project, b"ab")
    few = count()
    for _ in range(5):
        whole(project, b"ab")
    assert count() == few == 1
