"""``winnowd api --processes``: several that share a port, and end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.factories import PRUNE

SECONDS = 60


def until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def parent(server, tmp_path):
    """Run an API of two processes on the same data; give its address and the parent of both."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "app.cli", "api", "--port", str(port), "--processes", "2"]
    settings = server.parts.settings
    environment = {"WINNOW_DATA": str(settings.data), "WINNOW_BROKER_URL": settings.broker_url}
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    url = f"http://127.0.0.1:{port}"
    until(lambda: len(serving(process.pid)) == 2, "two that serve")
    until(lambda: answers(url), "an answer")
    yield url, process
    process.kill()
    process.wait()


def serving(parent):
    """Give the processes that the parent has started to serve; what shares things among them is no such process."""
    return [child.pid for child in psutil.Process(parent).children() if "spawn_main" in command_line(child)]


def command_line(process):
    """Give what was started; nothing of what has ended, also where it ends as it is asked."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def answers(url):
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def connected(pid, url):
    """Tell whether the process has taken somebody's connection to its port."""
    port = int(url.rpartition(":")[2])
    connections = psutil.Process(pid).net_connections("tcp")
    return any(it.laddr.port == port and it.status == psutil.CONN_ESTABLISHED for it in connections)


def gone(pids):
    return not any(command_line(process) for process in psutil.process_iter() if process.pid in pids)


def test_several_processes_share_a_port_and_one_that_dies_is_replaced(project, parent):
    url, process = parent
    first, second = serving(process.pid)
    os.kill(first, signal.SIGKILL)
    until(lambda: len(serving(process.pid)) == 2 and first not in serving(process.pid), "another in its place")
    assert second in serving(process.pid)
    body = {"model_id": project.add_model(), "dataset_id": project.add_dataset(), "recipe": [PRUNE]}
    headers = {"Authorization": f"Bearer {project.key}"}
    until(lambda: answers(url), "an answer")
    ids = {httpx.post(f"{url}/api/v1/jobs", json=body, headers=headers).raise_for_status().json()["id"] for _ in "1234"}
    assert {job["id"] for job in project.client.get("jobs").json()["items"]} == ids
    children = serving(process.pid)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.get, f"{url}/api/v1/jobs/{ids.pop()}?wait=30", headers=headers, timeout=40)
        until(lambda: any(connected(child, url) for child in children), "a connection")
        time.sleep(0.5)
        assert not waiting.done()
        process.terminate()
        assert waiting.result().json()["state"] == "queued", "who waits is answered before the end"
    assert process.wait(SECONDS) in {0, -15}
    until(lambda: gone(children), "no orphan")


def test_they_stop_when_their_parent_is_killed(parent):
    _, process = parent
    children = serving(process.pid)
    process.kill()
    until(lambda: gone(children), "no orphan")


@pytest.mark.parametrize("number", ["0", "65", "two"])
def test_a_number_of_processes_that_is_none(number):
    command = [sys.executable, "-m", "app.cli", "api", "--processes", number]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "1 to 64" in done.stderr
