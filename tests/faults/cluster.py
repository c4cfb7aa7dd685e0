"""The parts of one service as processes of their own, which can be killed and started again one by one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import httpx
import psutil

from app.db import migrations
from app.db.engine import make_engine, make_sessions
from app.embedded import broker_command, broker_socket, clear_stale_broker, wait_for_broker
from app.services import keys
from app.settings import Settings
from app.storage import Storage
from app.tether import tethered

LEASE_SECONDS = 4
INSPECTION_SECONDS = 120
TIMING = {
    "WINNOW_LEASE_SECONDS": str(LEASE_SECONDS),
    "WINNOW_REQUEUE_AFTER_SECONDS": "4",
    "WINNOW_RETRY_DELAY_SECONDS": "0.5",
    "WINNOW_CHECKPOINT_SECONDS": "0.2",
}
OCTETS = {"Content-Type": "application/octet-stream"}
WINNOWD = [sys.executable, "-m", "app.cli"]
QUICK_WORKER = [
    *(sys.executable, "-m", "celery", "--quiet", "--app", "tests.faults.quick", "worker"),
    *("--queues", "cpu", "--hostname", "cpu-quick@%h", "--without-gossip", "--without-mingle", "--without-heartbeat"),
]
ENGINE = "workers.compression"


class Cluster:
    """``objects`` is where contents are kept; ``database_url`` is SQLite under ``data`` where none is given.

    ``real`` runs the engine itself, else children that are quick.
    """

    def __init__(self, data, objects, *, real, database_url=None):
        self.data, self.objects = data, objects
        data.mkdir(parents=True, exist_ok=True)
        self.socket = broker_socket(data)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        given = {"data": data, "broker_url": f"redis+socket://{self.socket}", "storage_url": objects.as_uri()}
        self.settings = Settings(**given, **({"database_url": database_url} if database_url else {}))
        self.environment = {
            **os.environ,
            **TIMING,
            "OMP_NUM_THREADS": "1",
            "WINNOW_DATA": str(data),
            "WINNOW_BROKER_URL": self.settings.broker_url,
            "WINNOW_STORAGE_URL": self.settings.storage_url,
            "WINNOW_DATABASE_URL": self.settings.database_url,
        }
        self.log = (data / "parts.log").open("ab")
        self.commands = {
            "broker": broker_command(data, self.socket),
            "api": [*WINNOWD, "api", "--port", str(self.port)],
            "cpu": [*WINNOWD, "worker", "--queue", "cpu"] if real else QUICK_WORKER,
            "inspect": [*WINNOWD, "worker", "--queue", "inspect"],
        }
        self.processes = {}
        self.database = make_engine(self.settings.database_url)
        migrations.upgrade(self.database)
        with make_sessions(self.database).begin() as session:
            key = keys.bootstrap(session)
        self.sessions = make_sessions(self.database, read_only=True)
        self.storage = Storage(self.settings.storage_url)
        for part in self.commands:
            self.start(part)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/api/v1/",
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )

    def start(self, part):
        self.processes[part] = subprocess.Popen(
            tethered(self.commands[part]),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        if part == "broker":
            wait_for_broker(self.socket, self.processes[part])

    def end(self, part, number=signal.SIGKILL):
        """End a part by a signal, and wait until it has."""
        process = self.processes[part]
        process.send_signal(number)
        return process.wait(60)

    def restart(self, part, number=signal.SIGKILL):
        self.end(part, number)
        if part == "broker":
            clear_stale_broker(self.socket)
        self.start(part)

    def flush_broker(self):
        """Stop the broker, take away all that it had written down, and start it again."""
        self.end("broker", signal.SIGTERM)
        shutil.rmtree(self.data / "broker" / "appendonlydir", ignore_errors=True)
        self.start("broker")

    def engines(self):
        """Give the supervised children that run now, innermost first."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            inside = any(word.startswith(str(self.data)) for word in words)
            if ENGINE in words and inside and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return sorted(found, key=lambda process: -process.pid)

    @contextmanager
    def suspended(self, part):
        """Keep a part from doing anything for a while."""
        self.processes[part].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[part].send_signal(signal.SIGCONT)

    def request(self, method, path, **arguments):
        """Ask the API, which may be about to start; what was not answered is asked again."""
        deadline = time.monotonic() + 60
        while True:
            with suppress(httpx.TransportError):
                response = self.client.request(method, path, **arguments)
                if response.status_code < 500:
                    assert response.is_success, response.text
                    return response
            assert time.monotonic() < deadline, f"no answer to {method} {path}"
            time.sleep(0.1)

    def upload(self, noun, path):
        item = self.request("POST", noun, params={"name": path.stem}, content=path.read_bytes(), headers=OCTETS).json()
        deadline = time.monotonic() + INSPECTION_SECONDS
        while item["state"] == "validating":
            assert time.monotonic() < deadline, f"the inspection of {path.name} does not end"
            item = self.request("GET", f"{noun}/{item['id']}", params={"wait": 5}).json()
        assert item["state"] == "ready", item["problem"]
        return item["id"]

    def close(self):
        self.client.close()
        for part in ("api", "cpu", "inspect", "broker"):
            if part in self.processes:
                self.processes[part].send_signal(signal.SIGCONT)
                self.processes[part].terminate()
        for process in self.processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.database.dispose()
        self.log.close()
