"""Pieces that are cut, fall silent, race or are ended while they come in."""

import asyncio
import hashlib
import os
import time

import httpx

from tests.factories import pt2
from tests.serving import pointers, problem
from tests.tus import PIECE, TUS, begin, checksum, connect, draft, free, offset_of, send, taken, until


def heard(project, upload):
    """Count the bytes that the server has of what an open connection sends; they wait to be written with others."""
    append = project.server.parts.uploads._writers.get(upload)
    return append._pending_bytes if append else 0


def test_what_came_before_a_cut_is_kept(project):
    content = pt2()
    upload = begin(project, len(content))
    with connect(project, upload, len(content), "Upload-Offset: 0") as connection:
        connection.sendall(content[:1000])
        until(lambda: heard(project, upload) == 1000)
    until(lambda: free(project, upload) and offset_of(project, upload) == 1000)
    assert send(project, upload, 1000, content[1000:]).status_code == 204
    item = project.client.post("models", json={"name": "m", "upload_id": upload}).json()
    assert item["sha256"] == hashlib.sha256(content).hexdigest()


def test_nothing_is_kept_of_a_cut_piece_that_has_a_checksum(project):
    upload = begin(project, 1000)
    header = "Upload-Checksum: " + checksum("sha1", bytes(1000))["Upload-Checksum"]
    with connect(project, upload, 1000, "Upload-Offset: 0", header) as connection:
        connection.sendall(bytes(600))
        until(lambda: heard(project, upload) == 600)
        assert offset_of(project, upload) == 0
    until(lambda: free(project, upload))
    assert offset_of(project, upload) == 0
    assert draft(project, upload).read_bytes() == b""


def test_of_two_that_write_at_once_one_wins(project):
    content = pt2()
    upload = begin(project, len(content))
    with connect(project, upload, len(content), "Upload-Offset: 0") as connection:
        connection.sendall(content[:100])
        until(lambda: taken(project, upload))
        problem(send(project, upload, 0, os.urandom(len(content))), 423, "upload_locked")
        body = problem(project.client.post("models", json={"name": "m", "upload_id": upload}), 409, "upload_incomplete")
        assert pointers(body) == ["/upload_id"]
        connection.sendall(content[100:])
        assert connection.recv(64).startswith(b"HTTP/1.1 204")
    assert draft(project, upload).read_bytes() == content


def test_many_that_race_leave_one_whole_piece(project):
    upload = begin(project, 200_000)
    pieces = [bytes([number]) * 200_000 for number in range(8)]
    headers = PIECE | {"Upload-Offset": "0", "Authorization": f"Bearer {project.key}"}

    async def race():
        async with httpx.AsyncClient(base_url=f"{project.server.url}/api/v1/", headers=headers, verify=False) as client:
            answers = [client.patch(f"uploads/{upload}", content=piece) for piece in pieces]
            return [answer.status_code for answer in await asyncio.gather(*answers)]

    statuses = asyncio.run(race())
    assert statuses.count(204) == 1
    assert set(statuses) <= {204, 409, 423}
    assert draft(project, upload).read_bytes() == pieces[statuses.index(204)]


def test_a_connection_that_has_fallen_silent_gives_way(project):
    content = pt2()
    upload = begin(project, len(content))
    with connect(project, upload, len(content), "Upload-Offset: 0") as connection:
        connection.sendall(content[:100])
        until(lambda: taken(project, upload))
        until(lambda: heard(project, upload) == 100)
        problem(send(project, upload, 0, content), 423, "upload_locked")
        time.sleep(project.server.parts.uploads.silent_seconds)
        # The first now gives way, and what it brought stays.
        refused = send(project, upload, 0, content)
        assert refused.status_code in {204, 409}, refused.text
        if refused.status_code == 409:
            assert send(project, upload, 100, content[100:]).status_code == 204
    assert draft(project, upload).read_bytes() == content


def test_one_that_is_ended_while_it_is_written_leaves_nothing(project):
    upload = begin(project, 10)
    with connect(project, upload, 10, "Upload-Offset: 0") as connection:
        connection.sendall(b"abcd")
        until(lambda: taken(project, upload))
        assert project.client.delete(f"uploads/{upload}", headers=TUS).status_code == 204
        connection.sendall(b"efghij")
        assert connection.recv(64).startswith(b"HTTP/1.1 404")
    assert not draft(project, upload).exists()
