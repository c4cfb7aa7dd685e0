"""Listeners of one job on one API process: how soon an event reaches all of them, and what they cost in memory.

``python -m benchmarks.listeners [LISTENERS] [EVENTS]`` opens 1,000 streams on a ``winnowd api`` by default and
writes 100 events into its database as a worker does. The bounds: every event reaches all within 500 ms of its commit,
none is missing or repeated, and memory does not grow with the events.
"""

import asyncio
import math
import os
import platform
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from app.db import datasets, jobs, models
from app.db.engine import Sessions, make_engine, make_sessions
from app.domain.job import EventType
from app.settings import Settings
from benchmarks.upload import api
from tests.factories import PRUNE, dataset_facts, model_facts, npz, pt2

_GAP_SECONDS = 0.25
_PATIENCE_SECONDS = 30.0


@dataclass
class Listener:
    """One connection: the time at which each event came, by its id."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    came: dict[int, float] = field(default_factory=dict)
    repeated: int = 0

    async def read(self) -> None:
        while line := await self.reader.readline():
            if line.startswith(b"id: "):
                event_id = int(line[4:])
                self.repeated += event_id in self.came
                self.came[event_id] = time.monotonic()


async def listen(url: str, key: str, job_id: str) -> Listener:
    """Open a stream and read its head."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    path = f"/api/v1/jobs/{job_id}/events"
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
        "Accept: text/event-stream\r\nConnection: close\r\n\r\n".encode()
    )
    status = await reader.readline()
    if b" 200 " not in status:
        raise ValueError(status)
    while (await reader.readline()).strip():
        pass
    return Listener(reader, writer)


def running_job(client: httpx.Client, sessions: Sessions) -> str:
    """Make a job that a worker has claimed."""
    sent: dict[str, bytes] = {"models": pt2(), "datasets": npz()}
    ids = {}
    for noun, body in sent.items():
        ids[noun] = client.post(f"{noun}?name=n", content=body).raise_for_status().json()["id"]
    with sessions.begin() as session:
        models.finish_inspection(session, ids["models"], model_facts())
        datasets.finish_inspection(session, ids["datasets"], dataset_facts())
    asked = {"model_id": ids["models"], "dataset_id": ids["datasets"], "recipe": [PRUNE]}
    headers = {"Content-Type": "application/json"}
    job_id: str = client.post("jobs", json=asked, headers=headers).raise_for_status().json()["id"]
    with sessions.begin() as session:
        now = datetime.now(UTC)
        jobs.claim(session, job_id, 1, "cpu@benchmark", now, now + timedelta(hours=1))
    return job_id


@dataclass
class Figures:
    """Seconds from an event's commit to its arrival at the last and at each of all listeners; bytes of memory."""

    connect_seconds: float
    last: list[float]
    each: list[float]
    wrong: int
    idle_bytes: int
    connected_bytes: int
    middle_bytes: int
    end_bytes: int
    after_bytes: int
    processor_share: float


async def measure(
    url: str, key: str, process: psutil.Process, sessions: Sessions, job_id: str, listeners: int, events: int
) -> Figures:
    """Listen, write events, and see when each has reached everybody."""
    idle, began = process.memory_info().rss, time.monotonic()
    opened: list[Listener] = []
    for start in range(0, listeners, 50):
        batch = range(start, min(start + 50, listeners))
        opened += await asyncio.gather(*(listen(url, key, job_id) for _ in batch))
    connect_seconds = time.monotonic() - began
    readers = [asyncio.create_task(it.read()) for it in opened]
    await _all_have(opened, 2)
    connected, middle = process.memory_info().rss, 0
    spent, began = process.cpu_times(), time.monotonic()
    written: dict[int, float] = {}
    for number in range(events):
        if number == events // 2:
            middle = process.memory_info().rss
        event_id = await asyncio.to_thread(_write, sessions, job_id, number)
        written[event_id] = time.monotonic()
        await asyncio.sleep(_GAP_SECONDS)
    await _all_have(opened, max(written))
    now, seconds = process.cpu_times(), time.monotonic() - began
    end = process.memory_info().rss
    expected = set(range(1, max(written) + 1))
    wrong = sum(set(it.came) != expected or it.repeated > 0 or list(it.came) != sorted(it.came) for it in opened)
    late = {it: [listener.came.get(it, math.inf) - at for listener in opened] for it, at in written.items()}
    for it in opened:
        it.writer.close()
    await asyncio.gather(*readers, return_exceptions=True)
    await asyncio.sleep(1)
    return Figures(
        connect_seconds=connect_seconds,
        last=[max(times) for times in late.values()],
        each=[seconds for times in late.values() for seconds in times],
        wrong=wrong,
        idle_bytes=idle,
        connected_bytes=connected,
        middle_bytes=middle,
        end_bytes=end,
        after_bytes=process.memory_info().rss,
        processor_share=(now.user + now.system - spent.user - spent.system) / seconds,
    )


async def _all_have(opened: list[Listener], event_id: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    # An event of asyncio for each listener would be measured too.
    while time.monotonic() < deadline and not all(event_id in it.came for it in opened):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _write(sessions: Sessions, job_id: str, number: int) -> int:
    with sessions.begin() as session:
        data = {"fraction": number / 1000, "message": f"step {number} of many"}
        event_id = jobs.append_event(session, job_id, 1, EventType.PROGRESS, data, datetime.now(UTC))
    if event_id is None:
        raise ValueError("the job was lost")
    return event_id


def main() -> None:
    listeners = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    events = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4 * listeners + 256), most))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="winnow-listeners-") as name:
        data = Path(name)
        with api(data) as (client, process, _):
            sessions = make_sessions(make_engine(Settings(data=data).database_url))
            key = client.headers["authorization"].removeprefix("Bearer ")
            job_id = running_job(client, sessions)
            url = str(client.base_url)
            found = asyncio.run(measure(url, key, process, sessions, job_id, listeners, events))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load before {load:.1f}")
    print(f"{listeners} listeners connected in {found.connect_seconds:.1f} s; {events} events")
    print(f"one listener: {_milliseconds(found.each)}")
    print(f"the last of all: {_milliseconds(found.last)}; bound 500 ms")
    print(f"listeners with a gap, a repetition or a wrong order: {found.wrong}")
    print(f"the API used {found.processor_share:.2f} of a processor while events came")
    each = (found.connected_bytes - found.idle_bytes) / listeners
    print(f"memory: {found.idle_bytes / 1e6:.0f} MB idle, {found.connected_bytes / 1e6:.0f} MB connected", end=", ")
    print(f"{each / 1e3:.0f} kB each; {found.middle_bytes / 1e6:.0f} MB halfway", end=", ")
    print(f"{found.end_bytes / 1e6:.0f} MB at the end, {found.after_bytes / 1e6:.0f} MB after all have left")


def _milliseconds(times: list[float]) -> str:
    ordered = sorted(1000 * it for it in times)
    found = {"median": ordered[len(ordered) // 2], "p99": ordered[len(ordered) * 99 // 100], "worst": ordered[-1]}
    return ", ".join(f"{name} {value:.0f} ms" for name, value in found.items())


if __name__ == "__main__":
    main()
