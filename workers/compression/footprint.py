"""What ONNX Runtime takes for one file, in a process of its own: memory, and time to load."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from app.domain.errors import CheckFailed
from workers.compression.harness import Feed

_ROOT = Path(__file__).resolve().parents[2]
_RUNS = 3
_LOADS = 5
_TIMEOUT_SECONDS = 100


@dataclass(frozen=True)
class Footprint:
    """``peak_memory_bytes`` is the highest resident set of a fresh process that loads the file and runs a few batches.

    The interpreter and the runtime themselves are part of it, as in a deployment. ``load_ms`` is the least time of five
    to make a session of the file, which lies in the system's cache: whatever else runs only adds to it.
    """

    peak_memory_bytes: int
    load_ms: float


def measure_footprint(path: Path, rows: Feed, batch_size: int, threads: int) -> Footprint:
    """Start a process for one file, which runs ``rows``, repeated to the batch.

    Raises:
        CheckFailed: the process died or took longer than 100 seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "rows.npz"
        np.savez(stored, *rows.values(), allow_pickle=False)
        command = [sys.executable, "-m", "workers.compression.footprint", str(path.resolve()), str(stored)]
        command += [str(batch_size), str(threads)]
        try:
            done = subprocess.run(
                command, cwd=_ROOT, capture_output=True, text=True, check=True, timeout=_TIMEOUT_SECONDS
            )
        except subprocess.CalledProcessError as error:
            raise CheckFailed(f"ONNX Runtime failed on {path.name}: {error.stderr[-500:]}") from error
        except subprocess.TimeoutExpired as error:
            raise CheckFailed(f"ONNX Runtime took longer than {_TIMEOUT_SECONDS} s on {path.name}.") from error
    return Footprint(**json.loads(done.stdout))


def _peak_of_this_process() -> int:
    """Read VmHWM: getrusage's figure would be inherited from the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise CheckFailed("/proc/self/status has no VmHWM.")


def _main() -> None:
    from workers.compression import harness

    path, batch_size, threads = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
    with np.load(sys.argv[2]) as stored:
        rows = {name: stored[name] for name in stored.files}
    session = harness.open_session(path, threads)
    feed = harness.make_feed(session, rows, harness.fixed_batch(session) or batch_size)
    del rows
    for _ in range(_RUNS):
        session.run(None, feed)
    peak = _peak_of_this_process()
    loads = []
    for _ in range(_LOADS):
        began = time.perf_counter()
        harness.open_session(path, threads)
        loads.append((time.perf_counter() - began) * 1000)
    sys.stdout.write(json.dumps(asdict(Footprint(peak, min(loads)))))


if __name__ == "__main__":
    _main()
