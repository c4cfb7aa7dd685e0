"""What a real worker process tells of itself over HTTP."""

import signal
import socket
import subprocess

import httpx
import pytest

from app.embedded import clear_stale_broker
from tests.faults.cluster import QUICK_WORKER
from tests.workers.conftest import WORKING
from tests.workers.queue import worker_command
from tests.workers.site import until

FINE = {"database": "ok", "broker": "ok", "storage": "ok"}


@pytest.fixture
def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(port, path="/readyz"):
    """Give the status and the body, null where nobody listens."""
    try:
        response = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=60)
    except httpx.TransportError:
        return None
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()


def tells(port, **expected):
    """Tell whether the worker says all of this."""
    found = ask(port)
    return found is not None and expected.items() <= found[1].items()


def test_a_worker_tells_its_isolation_and_whether_it_works(queue, port):
    process = queue.start(QUICK_WORKER, WINNOW_WORKER_HEALTH_PORT=str(port))
    until(lambda: tells(port, status="ready", busy=False))
    status, body = ask(port)
    assert status == 200
    isolation = next(name for name in ("bubblewrap", "landlock") if name in WORKING)
    assert body.pop("worker").startswith("cpu-quick@")
    assert body == {"status": "ready", "queue": "cpu", "isolation": isolation, "busy": False, "parts": FINE}
    assert ask(port, "/healthz") == (200, {"status": "alive"})
    assert ask(port, "/elsewhere")[0] == 404

    job = queue.site.submit(*queue.site.add_inputs())
    queue.relay.wake()
    until(lambda: tells(port, status="ready", busy=True))
    until(lambda: queue.site.job(job).ended_at)
    until(lambda: tells(port, status="ready", busy=False))

    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert ask(port) is None


def test_a_worker_names_what_it_lacks_and_is_ready_again_without_a_restart(queue, port):
    queue.broker.terminate()
    queue.broker.wait(60)
    queue.start(worker_command("inspect", "--health-port", str(port)))
    until(lambda: tells(port, status="starting", queue="inspect"))
    status, body = ask(port)
    assert (status, body["parts"]) == (503, FINE | {"broker": "The broker does not answer."})
    assert ask(port, "/healthz")[0] == 200
    clear_stale_broker(queue.path)
    queue.start_broker()
    until(lambda: tells(port, status="ready", parts=FINE))

    objects, aside = queue.site.data / "objects", queue.site.data / "aside"
    objects.mkdir(exist_ok=True)
    objects.rename(aside)
    objects.write_text("a file where the folder should be")
    status, body = ask(port)
    assert (status, body["status"]) == (503, "unready")
    assert body["parts"] == FINE | {"storage": "The storage cannot be written."}
    objects.unlink()
    aside.rename(objects)
    assert ask(port)[0] == 200


def test_a_worker_without_the_port_it_was_given_ends_and_says_so(queue):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        command = worker_command("inspect", "--health-port", number)
        ended = subprocess.run(command, env=queue.environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode != 0
    assert f"winnowd: The port {number} of 127.0.0.1" in ended.stderr
