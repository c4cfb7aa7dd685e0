"""The whole service, started as a user starts it, and a client of it."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil

RECIPE = [
    {"method": "prune", "granularity": "channel", "criterion": "l2", "amount": 0.3, "scope": "global"},
    {"method": "distill", "teacher": "baseline", "epochs": 1, "temperature": 4.0, "alpha": 0.7, "learning_rate": 0.01},
    {"method": "quantize", "scheme": "static", "observer": "histogram", "samples": 128},
]
INSPECTION_SECONDS = 120
PROMPT_SECONDS = 20
"""Time for what a worker does at its next look, on a machine that stalls too."""
ENDED = {"succeeded", "failed", "cancelled", "timed_out"}


class Service:
    def __init__(self, data):
        self.data = data
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.start()
        key = (data / "admin.key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1/", headers=headers, timeout=90)

    def start(self):
        command = [sys.executable, "-m", "app.cli", "serve", "--data", str(self.data), "--port", str(self.port)]
        # A turn of its own: services of tests side by side need not wait for each other's measurements.
        environment = os.environ | {"WINNOW_MEASURING_LOCK": str(self.data / "measuring.lock")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for line in self.process.stdout:
            if "is ready" in line:
                return
        raise AssertionError(f"ended with status {self.process.wait()} before it was ready")

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number=signal.SIGTERM):
        """End the service by a signal; return its status and how long it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()  # and with it, all that is tethered to it
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()
        return status, time.monotonic() - began

    def close(self):
        self.client.close()
        if self.process.poll() is None:
            self.stop()

    def post(self, path, **arguments):
        response = self.client.post(path, **arguments)
        assert response.is_success, response.text
        return response.json()

    def get(self, path, **arguments):
        response = self.client.get(path, **arguments)
        assert response.is_success, response.text
        return response.json()

    def upload(self, noun, path):
        item = self.post(noun, params={"name": path.stem}, content=path.read_bytes(), headers=OCTETS)
        deadline = time.monotonic() + INSPECTION_SECONDS
        while item["state"] == "validating":
            assert time.monotonic() < deadline, item
            item = self.get(f"{noun}/{item['id']}", params={"wait": 30})
        assert item["state"] == "ready", item["problem"]
        return item["id"]

    def submit(self, model, dataset, recipe=RECIPE, **fields):
        return self.post("jobs", json={"model_id": model, "dataset_id": dataset, "recipe": recipe, **fields})["id"]

    def wait(self, job, done=lambda job: job["state"] in ENDED, seconds=180, noun="jobs"):
        deadline = time.monotonic() + seconds
        while not done(item := self.get(f"{noun}/{job}", params={"wait": 1})):
            assert time.monotonic() < deadline, item
        return item


OCTETS = {"Content-Type": "application/octet-stream"}


def gone(processes):
    return not psutil.wait_procs(processes, timeout=60)[1]
