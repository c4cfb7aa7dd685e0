"""Train a network on real digits and compress it through a service started for the occasion.

``make demo`` runs it. Everything it makes is in a temporary folder that goes away with it.
"""

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import winnow
from compress import compress
from digits import save_digits, save_model, train

READY_SECONDS = 60
STOP_SECONDS = 20


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def service(folder: Path) -> Iterator[tuple[str, str]]:
    """Run ``winnowd serve`` on a free port; give its address and its first key."""
    port = free_port()
    winnowd = Path(sys.executable).with_name("winnowd")
    with (folder / "winnowd.log").open("wb") as log:
        server = subprocess.Popen(
            [winnowd, "serve", "--data", folder / "service", "--port", str(port)], stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not is_ready(url):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the service did not start:\n{(folder / 'winnowd.log').read_text()}")
            time.sleep(0.1)
        yield url, (folder / "service" / "admin.key").read_text().strip()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(STOP_SECONDS)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False


def run_in_onnxruntime(model: Path, data: Path) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with np.load(data) as arrays:
        x, y = arrays["validation.x"], arrays["validation.y"]
    (logits,) = session.run(None, {session.get_inputs()[0].name: x})
    print(f"model.onnx in ONNX Runtime: {np.mean(logits.argmax(1) == y):.4f} of {len(y)} digits right")


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="winnow-demo-") as name:
        folder = Path(name)
        model, data, small = folder / "digits.pt2", folder / "digits.npz", folder / "model.onnx"
        with service(folder) as (url, key):
            print("training a residual CNN on 4,000 handwritten digits …", flush=True)
            save_digits(data)
            save_model(train(data), model)
            print(f"compressing it through {url} …", flush=True)
            with winnow.Client(url, key) as client:
                compress(client, model, data, small)
        run_in_onnxruntime(small, data)
    print(f"done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
