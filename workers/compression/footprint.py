"""What ONNX Runtime takes for one file, in a process of its own: memory, and time to load."""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from app.domain.errors import CheckFailed

_ROOT = Path(__file__).resolve().parents[2]
_RUNS = 3
_LOADS = 5
_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Footprint:
    """``peak_memory_bytes`` is the highest resident set of a fresh process that loads the file and runs a few batches.

    The interpreter and the runtime themselves are part of it, as in a deployment. ``load_ms`` is the median time to
    make a session of the file, which lies in the system's cache.
    """

    peak_memory_bytes: int
    load_ms: float


def measure_footprint(path: Path, batch_size: int, threads: int) -> Footprint:
    """Start a process for one file.

    Raises:
        CheckFailed: the process died or took longer than five minutes.
    """
    command = [sys.executable, "-m", "workers.compression.footprint", str(path.resolve())]
    command += [str(batch_size), str(threads)]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True, timeout=_TIMEOUT_SECONDS)
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

    path, batch_size, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    session = harness.open_session(path, threads)
    feed = harness.make_feed(session, harness.make_rows(session, 0), harness.fixed_batch(session) or batch_size)
    for _ in range(_RUNS):
        session.run(None, feed)
    peak = _peak_of_this_process()
    loads = []
    for _ in range(_LOADS):
        began = time.perf_counter()
        harness.open_session(path, threads)
        loads.append((time.perf_counter() - began) * 1000)
    sys.stdout.write(json.dumps(asdict(Footprint(peak, statistics.median(loads)))))


if __name__ == "__main__":
    _main()
