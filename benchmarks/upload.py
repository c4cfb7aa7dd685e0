"""What an upload costs the API in memory, and how long its process takes to answer.

``python -m benchmarks.upload [MEBIBYTES]`` starts ``winnowd api``, sends one body of that size (1024 by default)
and downloads it again. The bounds are 150 MB after the start, 3 s to the first answer and 100 MB more at the peak.
"""

import hashlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from app.db import migrations
from app.db.engine import make_engine, make_sessions
from app.services import keys
from app.settings import Settings

MEBIBYTE = 1024**2
_SAMPLE_SECONDS = 0.01
_START_SECONDS = 30


@dataclass(frozen=True)
class Figures:
    """Resident memory in bytes, of the API's process alone, and seconds; ``start_cpu_seconds`` are the processor's."""

    ready_seconds: float
    start_cpu_seconds: float
    start_bytes: int
    peak_bytes: int
    after_bytes: int
    upload_seconds: float
    download_peak_bytes: int

    @property
    def growth_bytes(self) -> int:
        return max(self.peak_bytes, self.download_peak_bytes) - self.start_bytes


def write_archive(path: Path, mebibytes: int) -> str:
    """Write what the API takes for a network, of about this size; give its SHA-256."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/models/model.json", "{}")
        with archive.open("net/data/weights/weight_0", "w", force_zip64=True) as member:
            for _ in range(mebibytes):
                member.write(secrets.token_bytes(MEBIBYTE))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def api(data: Path) -> Iterator[tuple[httpx.Client, psutil.Process, float]]:
    """Run ``winnowd api`` on a migrated folder; give a client, the process and the seconds to its first answer."""
    engine = make_engine(Settings(data=data).database_url)
    migrations.upgrade(engine)
    with make_sessions(engine).begin() as session:
        key = keys.bootstrap(session)
    engine.dispose()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {**os.environ, "WINNOW_DATA": str(data), "WINNOW_BROKER_URL": f"redis+socket://{data}/none.sock"}
    began = time.monotonic()
    command = [sys.executable, "-m", "app.cli", "api", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).raise_for_status()
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() - began > _START_SECONDS:
                    raise
                time.sleep(0.02)
            else:
                break
        ready = time.monotonic() - began
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1/", headers=headers, timeout=300) as client:
            yield client, psutil.Process(process.pid), ready
    finally:
        process.terminate()
        process.wait()


@contextmanager
def peak_of(process: psutil.Process) -> Iterator[list[int]]:
    """Watch a process; the list's one member is the most resident memory seen, in bytes."""
    peak = [process.memory_info().rss]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def measure(folder: Path, mebibytes: int, *, twice: bool = False) -> Figures:
    """Send an archive of this size, fetch it again and check it.

    ``twice`` sends it under an ``Idempotency-Key``, and then again, which is answered without keeping it.
    """
    path = folder / "network.pt2"
    digest = write_archive(path, mebibytes)
    with api(folder / "data") as (client, process, ready):
        start, spent = process.memory_info().rss, process.cpu_times()
        began = time.monotonic()
        with peak_of(process) as peak, path.open("rb") as body:
            headers = {"Content-Length": str(path.stat().st_size)} | ({"Idempotency-Key": "large"} if twice else {})
            item = client.post("models?name=large", content=body, headers=headers).raise_for_status().json()
            if twice:
                body.seek(0)
                again = client.post("models?name=large", content=body, headers=headers).raise_for_status()
                if again.json() != item or "Idempotency-Replayed" not in again.headers:
                    raise ValueError("what was sent again was not taken for the same")
        seconds = time.monotonic() - began
        after = process.memory_info().rss
        received = hashlib.sha256()
        with peak_of(process) as back, client.stream("GET", f"models/{item['id']}/content") as response:
            for block in response.iter_raw():
                received.update(block)
    if not digest == item["sha256"] == received.hexdigest():
        raise ValueError("what came back is not what was sent")
    return Figures(ready, spent.user + spent.system, start, peak[0], after, seconds, back[0])


def main() -> None:
    mebibytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory(prefix="winnow-upload-") as name:
        found = measure(Path(name), mebibytes)
    print(f"ready after {found.ready_seconds:.2f} s, of which the processor worked {found.start_cpu_seconds:.2f} s")
    print(f"memory after the start {found.start_bytes / 1e6:.0f} MB")
    print(f"upload of {mebibytes} MiB: {found.upload_seconds:.1f} s, peak {found.peak_bytes / 1e6:.0f} MB")
    print(f"after it {found.after_bytes / 1e6:.0f} MB, peak of the download {found.download_peak_bytes / 1e6:.0f} MB")
    print(f"growth {found.growth_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
