"""The way from the outbox to workers, with every process real."""

import os
import subprocess
import sys

from sqlalchemy import select

from app.db.tables import WorkerRow
from app.embedded import broker_command, broker_socket, wait_for_broker
from app.queue import Relay
from app.settings import Settings
from tests.workers.site import Site, until


def worker_command(queue, *options):
    return [sys.executable, "-m", "app.cli", "worker", "--queue", queue, *options]


def end(process, seconds=60):
    """Wait for a process that was asked to end; one that does not is killed, lest it works on beside other tests."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


class Queue:
    """The outbox of a site, its relay, a broker, and the workers that are started on it."""

    def __init__(self, data):
        self.site = Site(data)
        path = broker_socket(data)
        self.broker_command = broker_command(data, path)
        self.path = path
        self.url = f"redis+socket://{path}"
        self.start_broker()
        self.environment = {**os.environ, "WINNOW_DATA": str(data), "WINNOW_BROKER_URL": self.url}
        settings = Settings(data=data, broker_url=self.url)
        self.relay = Relay(settings, self.site.db)
        self.relay.start()
        self.workers = []

    def start_broker(self):
        self.broker = subprocess.Popen(self.broker_command)
        wait_for_broker(self.path, self.broker)

    def start(self, command, output=None, **variables):
        """Start a worker by a command of the test's own, perhaps with what it says in a file."""
        process = subprocess.Popen(command, env=self.environment | variables, stdout=output, stderr=output)
        self.workers.append(process)
        return process

    def start_worker(self, queue):
        process = self.start(worker_command(queue))
        until(lambda: any(row.queue == queue for row in self.live()))
        return process

    def live(self):
        with self.site.sessions() as session:
            return session.scalars(select(WorkerRow)).all()

    def close(self):
        for process in self.workers:
            process.terminate()
        for process in self.workers:
            end(process)
        self.relay.stop()
        self.broker.terminate()
        end(self.broker)
        self.site.close()
