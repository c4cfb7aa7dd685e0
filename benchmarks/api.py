"""What the API costs: reading beside a million jobs, submitting jobs, and taking in uploads.

``python -m benchmarks.api [reads] [submissions] [uploads] [--database sqlite postgresql] [--processes N …]
[--rows N]`` runs all on both by default. Each figure that is bound is a ratio of two that were measured in turn in one
run, or a rate:

- a job, and the first page of jobs, with 1,000 and with N (1,000,000) stored cost the same within 1.2;
- at least 200 submissions a second on PostgreSQL, 99 in 100 within 100 ms;
- an upload has at least 0.6 of the throughput of the same bytes written and hashed by a bare handler.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from sqlalchemy import bindparam, text

from app.db.tables import JobRow, UtcDateTime
from benchmarks.serving import Api, Connection, free_port, postgresql, serving, start, wait_for
from benchmarks.upload import write_archive
from tests.factories import PRUNE

_FEW = 1000
_ROUNDS = 300
_WARM = 30
_CONNECTIONS = 12
_SUBMIT_SECONDS = 10.0
_ALL_UP_SECONDS = 5.0
_UPLOAD_MEBIBYTES = 256
_UPLOADS = 8
Pair = tuple[list[float], list[float]]
"""What was measured of two, in turn."""

_FILL_JOBS = """
    INSERT INTO jobs ({columns})
    WITH RECURSIVE {series}
    SELECT {values} FROM series, jobs AS pattern WHERE pattern.id = :pattern
"""
_SERIES = {
    "sqlite": "series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < :rows)",
    "postgresql": "series(n) AS (SELECT generate_series(1, :rows))",
}
_ID = {"sqlite": "printf('job_%026d', n)", "postgresql": "'job_' || lpad(n::text, 26, '0')"}
_STATES = "CASE n % 10 WHEN 0 THEN 'failed' WHEN 1 THEN 'queued' WHEN 2 THEN 'queued' ELSE 'succeeded' END"
"""A fifth is queued: with a million jobs the queue is two hundred thousand long."""


def fill(api: Api, rows: int) -> str:
    """Store jobs by SQL, as copies of one that was submitted; give the id of one in the middle that has ended."""
    model, dataset = api.inputs()
    asked = {"model_id": model, "dataset_id": dataset, "recipe": [PRUNE], "labels": {"team": "vision"}}
    with api.client() as client:
        pattern = client.post("jobs", json=asked).raise_for_status().json()["id"]
    with api.sessions.begin() as session:
        dialect = session.get_bind().dialect.name
        columns = [column.name for column in JobRow.__table__.columns]
        own = {"id": _ID[dialect], "state": _STATES, "queued_at": ":later"}
        values = [own.get(name, f"pattern.{name}") for name in columns]
        statement = _FILL_JOBS.format(columns=", ".join(columns), series=_SERIES[dialect], values=", ".join(values))
        # Their messages stand in no broker: what was to go out long ago would be taken for lost and published again.
        later = bindparam("later", datetime.now(UTC) + timedelta(days=1), UtcDateTime())
        session.execute(text(statement).bindparams(later), {"rows": rows, "pattern": pattern})
        session.execute(
            text(
                "INSERT INTO job_labels (job_id, project_id, key, value) SELECT id, project_id, 'team',"
                " CASE WHEN id LIKE '%7' THEN 'rare' ELSE 'vision' END FROM jobs WHERE id <> :pattern"
            ),
            {"pattern": pattern},
        )
    engine = api.sessions.kw["bind"]
    if dialect == "postgresql":
        # As its autovacuum does before long.
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))
    return model


def requests(api: Api, rows: int, model: str) -> dict[str, bytes]:
    """Give what is asked, by the name it is reported under."""
    middle = rows // 20 * 10
    paths = {
        "a job that has ended": f"jobs/job_{middle + 3:026d}",
        "a job that is queued": f"jobs/job_{middle + 1:026d}",
        "the last job of the queue": f"jobs/job_{rows // 10 * 10 - 8:026d}",
        "jobs": "jobs",
        "jobs?state=queued": "jobs?state=queued",
        "jobs?state=failed": "jobs?state=failed",
        "jobs?model_id": f"jobs?model_id={model}",
        "jobs?label": "jobs?label=team:rare",
        "jobs?state&label": "jobs?state=failed&label=team:vision",
        "jobs, a page in the middle": f"jobs?cursor=job_{middle:026d}",
    }
    asked = {name: api.head("GET", path) for name, path in paths.items()}
    return asked | {"/metrics": api.head("GET", "metrics").replace(b"/api/v1/metrics", b"/metrics")}


async def compare(few: Api, many: Api, asked: dict[str, tuple[bytes, bytes]]) -> dict[str, tuple[float, float]]:
    """Ask both in turn; give the median seconds of each."""
    connections = [await Connection.open(api.port) for api in (few, many)]
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in asked}
    for number in range(_WARM + _ROUNDS):
        for name, pair in asked.items():
            for side in random.sample((0, 1), 2):
                seconds = await connections[side].ask(pair[side], 200)
                if number >= _WARM:
                    times[name][side].append(seconds)
    for connection in connections:
        connection.close()
    return {name: (statistics.median(a), statistics.median(b)) for name, (a, b) in times.items()}


def reads(database: str, rows: int) -> None:
    with ExitStack() as stack:
        sides = []
        for count in (_FEW, rows):
            api = stack.enter_context(fresh(database))
            began = time.monotonic()
            model = fill(api, count)
            print(f"  {count} jobs stored in {time.monotonic() - began:.0f} s", flush=True)
            sides.append((api, requests(api, count, model)))
        (few, asked_few), (many, asked_many) = sides
        asked = {name: (asked_few[name], asked_many[name]) for name in asked_few}
        found = asyncio.run(compare(few, many, asked))
    for name, (a, b) in found.items():
        print(f"  {name:<28} {1000 * a:6.2f} ms  {1000 * b:6.2f} ms  ratio {b / a:.2f}; bound 1.2")


async def submit(api: Api, body: bytes, connections: int, seconds: float) -> list[float]:
    """Submit on so many connections, each as soon as it is answered; give the seconds that each took."""
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    request = api.head("POST", "jobs", *lines) + body
    times: list[float] = []
    opened = [await Connection.open(api.port) for _ in range(connections)]
    for connection in opened:
        await connection.ask(request, 202)
    deadline = time.monotonic() + seconds

    async def run(connection: Connection) -> None:
        while time.monotonic() < deadline:
            times.append(await connection.ask(request, 202))

    await asyncio.gather(*map(run, opened))
    for connection in opened:
        connection.close()
    return times


def submissions(database: str, counts: Sequence[int]) -> None:
    for processes in counts:
        submissions_to(database, processes)


def submissions_to(database: str, processes: int) -> None:
    with fresh(database, processes) as api:
        if processes > 1:
            time.sleep(_ALL_UP_SECONDS)
        model, dataset = api.inputs()
        body = json.dumps({"model_id": model, "dataset_id": dataset, "recipe": [PRUNE]}).encode()
        for connections in (1, 4, _CONNECTIONS):
            before, own, began = spent_by(api.process.pid), time.process_time(), time.monotonic()
            times = sorted(asyncio.run(submit(api, body, connections, _SUBMIT_SECONDS)))
            rate = len(times) / (time.monotonic() - began)
            spent, own = spent_by(api.process.pid) - before, time.process_time() - own
            print(
                f"  {processes} processes, {connections:>2} at a time: {rate:.0f} a second,"
                f" median {1000 * times[len(times) // 2]:.1f} ms, p99 {1000 * times[len(times) * 99 // 100]:.1f} ms;"
                f" bounds 200 and 100 ms; processor {1000 * spent / len(times):.2f} ms each of the API and"
                f" {1000 * own / len(times):.2f} of what asks; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


def spent_by(pid: int) -> float:
    """Give the seconds of processor that a process and its children have used."""
    process = psutil.Process(pid)
    return sum(sum(it.cpu_times()[:2]) for it in (process, *process.children(recursive=True)))


BARE = """
import hashlib, os, secrets, sys
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    digest, more = hashlib.sha256(), True
    name = f"{sys.argv[1]}/{secrets.token_hex(8)}"
    with open(name, "wb") as file:
        while more:
            message = await receive()
            digest.update(message.get("body", b""))
            file.write(message.get("body", b""))
            more = message.get("more_body", False)
    body = digest.hexdigest().encode()
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
    os.remove(name)
import uvicorn
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


@contextmanager
def bare(folder: Path) -> Iterator[tuple[int, int]]:
    """Run a handler that does nothing but hash and write; give its port and its process."""
    port = free_port()
    with ExitStack() as stack:
        process = start(stack, [sys.executable, "-c", BARE, str(folder), str(port)], dict(os.environ))
        wait_for(f"http://127.0.0.1:{port}/", process)
        yield port, process.pid


def send(port: int, head: bytes, path: Path) -> float:
    """Send a file as it lies on the disk; give the seconds to the answer."""
    with socket.create_connection(("127.0.0.1", port)) as connection, path.open("rb") as file:
        began = time.perf_counter()
        connection.sendall(head)
        connection.sendfile(file)
        answer = connection.recv(65536)
        seconds = time.perf_counter() - began
    if not answer.startswith(b"HTTP/1.1 201"):
        raise ValueError(answer)
    return seconds


def uploads(database: str) -> None:
    """Send the same bytes to both in turn, in pairs, with a folder in memory under both where there is one.

    On a disk the kernel holds up whoever writes while what others wrote is on its way out: that said more of the disk.
    """
    shared = Path("/dev/shm")
    with ExitStack() as stack:
        where = str(shared) if shared.is_dir() else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-bare-", dir=where)))
        api = stack.enter_context(fresh(database, where=where))
        sides = (stack.enter_context(bare(folder)), (api.port, api.process.pid))
        times: Pair = ([], [])
        spent: Pair = ([], [])
        for number in range(1 + _UPLOADS):
            upload_pair(api, sides, folder / "network.pt2", number, (times, spent) if number else (([], []), ([], [])))
    rates = [_UPLOAD_MEBIBYTES * 2**20 / statistics.median(found) / 1e6 for found in times]
    for name, (a, b), bound in (("throughput", times, "; bound 0.6"), ("throughput a second of processor", spent, "")):
        ratios = sorted(one / other for one, other in zip(a, b, strict=True))
        print(f"  {name}: {statistics.median(ratios):.2f} of the bare handler's", end="")
        print(f" ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} pairs){bound}")
    print(f"  bare {rates[0]:.0f} MB/s, service {rates[1]:.0f} MB/s; load {os.getloadavg()[0]:.1f}", flush=True)


def upload_pair(api: Api, sides: Sequence[tuple[int, int]], path: Path, number: int, found: tuple[Pair, Pair]) -> None:
    """Send one file to both, each first every other time; note the seconds, and those of processor."""
    times, spent = found
    write_archive(path, _UPLOAD_MEBIBYTES)
    size = path.stat().st_size
    lines = ("Content-Type: application/octet-stream", f"Content-Length: {size}")
    head = api.head("POST", "models?name=n", *lines)
    for side in (0, 1) if number % 2 else (1, 0):
        port, pid = sides[side]
        before = spent_by(pid)
        times[side].append(send(port, head, path))
        spent[side].append(spent_by(pid) - before)
    with api.client() as client:
        for model in client.get("models").raise_for_status().json()["items"]:
            client.delete(f"models/{model['id']}").raise_for_status()


@contextmanager
def fresh(database: str, processes: int = 1, where: str | None = None) -> Iterator[Api]:
    """Serve from an empty database."""
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-api-", dir=where)))
        url = stack.enter_context(postgresql()) if database == "postgresql" else None
        yield stack.enter_context(serving(data, url, processes))


def main() -> None:
    parts: dict[str, Callable[[str], None]] = {
        "reads": lambda database: reads(database, arguments.rows),
        "submissions": lambda database: submissions(database, arguments.processes),
        "uploads": uploads,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=[])
    parser.add_argument("--database", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2], help="of the API, for submissions")
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores")
    for part in arguments.parts or parts:
        for database in arguments.database:
            print(f"{part} on {database}, load before {os.getloadavg()[0]:.1f}", flush=True)
            parts[part](database)


if __name__ == "__main__":
    main()
