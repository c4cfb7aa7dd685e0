"""Many who wait at once, on one process: each hears everything, and together they cost what one does."""

import asyncio
import signal
import time
from contextlib import asynccontextmanager

import httpx
import pytest

from app.api import events
from benchmarks.listeners import Listener, listen, running_job
from benchmarks.upload import api
from tests.serving import PROMPT_SECONDS, problem, statements

MANY = 100


@pytest.fixture
def job_id(project):
    job_id = project.queued()
    project.claim(job_id)
    return job_id


@asynccontextmanager
async def listening(project, job_id, many=MANY):
    found = await asyncio.gather(*(listen(f"{project.server.url}/api/v1/", project.key, job_id) for _ in range(many)))
    tasks = [asyncio.create_task(it.read()) for it in found]
    try:
        yield found
    finally:
        for it in found:
            it.writer.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def report(project, job_id, message="now"):
    return await asyncio.to_thread(project.report_event, job_id, "log", {"level": "info", "message": message})


def test_many_hear_all_events_in_order_for_the_queries_of_one(project, job_id):
    async def run():
        async with listening(project, job_id) as listeners:
            await until(lambda: all(2 in it.came for it in listeners))
            with statements(project.server) as asked:
                began = time.monotonic()
                ids = [await report(project, job_id, "x" * 500) for _ in range(20)]
                await until(lambda: all(ids[-1] in it.came for it in listeners))
                await asyncio.sleep(1)
                seconds = time.monotonic() - began
            # A look is BEGIN, the marks, the events and sometimes the keys; writing an event takes three.
            assert len(asked) < 20 * 4 + 12 * 4 * (seconds + 1), len(asked)
            assert {tuple(it.came) for it in listeners} == {tuple(range(1, ids[-1] + 1))}
            assert [it.repeated for it in listeners] == [0] * MANY

    asyncio.run(run())


def test_all_go_on_after_their_last_event_and_end_with_the_job(project, job_id):
    for number in range(10):
        project.report_event(job_id, "log", {"level": "info", "message": str(number)})

    async def resume(after):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        path = f"{project.server.url}/api/v1/jobs/{job_id}/events"
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {project.key}"}, verify=False) as client:
            text = (await client.get(path, headers=headers, timeout=60)).text
        return [int(line.removeprefix("id: ")) for line in text.split("\n") if line.startswith("id: ")]

    async def run():
        streams = [asyncio.create_task(resume(after)) for after in range(13)]
        await until(lambda: project.server.parts.watch.watched)
        await asyncio.sleep(0.3)
        last = await report(project, job_id)
        await asyncio.to_thread(project.finish, job_id)
        return last + 1, await asyncio.gather(*streams)

    last, found = asyncio.run(run())
    assert found == [list(range(after + 1, last + 1)) for after in range(13)]


def test_one_who_reads_nothing_holds_up_nobody_and_catches_up(project, job_id):
    async def run():
        slow = await listen(f"{project.server.url}/api/v1/", project.key, job_id)
        slow.reader._transport.pause_reading()
        async with listening(project, job_id, 3) as listeners:
            # More than what the sockets and the backlog hold.
            for _ in range(1500):
                last = await report(project, job_id, "x" * 4000)
            # Who does not read is dropped only later.
            await until(lambda: all(last in it.came for it in listeners), PROMPT_SECONDS)
            topic = project.server.parts.watch._topics[job_id]
            assert topic.held_bytes <= 256 * 1024
            assert sum(len(line) for _, line in topic.lines) == topic.held_bytes
        slow.reader._transport.resume_reading()
        task = asyncio.create_task(slow.read())
        await until(lambda: last in slow.came)
        assert list(slow.came) == list(range(1, last + 1))
        slow.writer.close()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_one_who_takes_nothing_for_too_long_is_dropped(project, job_id, monkeypatch):
    monkeypatch.setattr(events, "SEND_SECONDS", 0.3)

    async def run():
        stalled = await listen(f"{project.server.url}/api/v1/", project.key, job_id)
        stalled.writer.transport.pause_reading()
        await until(lambda: project.server.parts.watch.watched == 1)
        deadline = time.monotonic() + 60
        # More than what the sockets hold.
        while project.server.parts.watch.watched:
            assert time.monotonic() < deadline
            await report(project, job_id, "x" * 200_000)
        async with listening(project, job_id, many=1) as (other,):
            await until(lambda: 2 in other.came)
        stalled.writer.close()

    asyncio.run(run())


def test_who_leaves_leaves_nothing(project, job_id):
    async def run():
        async with listening(project, job_id, 20):
            await until(lambda: len(project.server.parts.watch._topics[job_id].seats) == 20)
        await until(lambda: project.server.parts.watch.watched == 0)

    asyncio.run(run())


def test_a_revoked_key_ends_its_streams_within_a_second(project, job_id):
    made = project.client.post("keys", json={"name": "short", "scopes": ["read"]}).json()

    async def run():
        listener = await listen(f"{project.server.url}/api/v1/", made["key"], job_id)
        task = asyncio.create_task(listener.read())
        async with listening(project, job_id, 1) as others:
            await until(lambda: 2 in listener.came)
            await asyncio.to_thread(project.client.delete, f"keys/{made['id']}")
            await asyncio.wait_for(task, PROMPT_SECONDS)
            last = await report(project, job_id)
            await until(lambda: last in others[0].came)
        listener.writer.close()

    asyncio.run(run())


def test_many_long_polls_are_answered_at_once_for_the_queries_of_one(project):
    job_id, many = project.queued(), 30

    async def run():
        limits = httpx.Limits(max_connections=many)
        headers = {"Authorization": f"Bearer {project.key}"}
        base = f"{project.server.url}/api/v1/"
        async with httpx.AsyncClient(base_url=base, headers=headers, limits=limits, timeout=90, verify=False) as client:
            polls = [asyncio.create_task(client.get(f"jobs/{job_id}?wait=60")) for _ in range(many)]
            await until(lambda: project.server.parts.watch.watched)
            topic = project.server.parts.watch._topics[job_id]
            await until(lambda: len(topic.seats) == many)
            began = time.monotonic()
            with statements(project.server) as asked:
                await asyncio.sleep(1)
            assert len(asked) < 12 * 3 * (time.monotonic() - began)
            await asyncio.to_thread(project.claim, job_id)
            answers = await asyncio.wait_for(asyncio.gather(*polls), PROMPT_SECONDS)
        assert {answer.json()["state"] for answer in answers} == {"running"}

    asyncio.run(run())


def test_a_long_poll_of_a_key_that_ends_is_refused(project):
    job_id = project.queued()
    made = project.client.post("keys", json={"name": "short", "scopes": ["read"]}).json()

    async def run():
        headers = {"Authorization": f"Bearer {made['key']}"}
        async with httpx.AsyncClient(headers=headers, timeout=90, verify=False) as client:
            poll = asyncio.create_task(client.get(f"{project.server.url}/api/v1/jobs/{job_id}?wait=60"))
            await until(lambda: project.server.parts.watch.watched)
            await asyncio.to_thread(project.client.delete, f"keys/{made['id']}")
            return await asyncio.wait_for(poll, PROMPT_SECONDS)

    problem(asyncio.run(run()), 401, "unauthenticated")


def test_a_server_that_ends_ends_streams_and_answers_long_polls(tmp_path):
    with api(tmp_path) as (client, process, _):
        from app.db.engine import make_engine, make_sessions
        from app.settings import Settings

        engine = make_engine(Settings(data=tmp_path).database_url)
        job_id = running_job(client, make_sessions(engine))
        engine.dispose()
        key = client.headers["authorization"].removeprefix("Bearer ")
        url = str(client.base_url)

        async def run():
            found: list[Listener] = [await listen(url, key, job_id) for _ in range(10)]
            tasks = [asyncio.create_task(last_line(it)) for it in found]
            async with httpx.AsyncClient(headers=dict(client.headers), timeout=90, verify=False) as poller:
                poll = asyncio.create_task(poller.get(f"{url}jobs/{job_id}?wait=60"))
                await until(lambda: all(2 in it.came for it in found))
                await asyncio.sleep(0.3)
                process.send_signal(signal.SIGTERM)
                # The end of a body in chunks: a stream that is cut has none.
                assert await asyncio.gather(*tasks) == [b"0"] * len(found)
                assert (await poll).json()["state"] == "running"
                await asyncio.to_thread(process.wait, 60)
                for it in found:
                    it.writer.close()

        asyncio.run(run())


async def last_line(listener):
    """Read a stream to its end; give the last line that is not empty."""
    last = b""
    while line := await listener.reader.readline():
        last = line.strip() or last
        if line.startswith(b"id: "):
            listener.came[int(line[4:])] = time.monotonic()
    return last
