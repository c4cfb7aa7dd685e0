"""Energy of a batch, from the counters that the kernel keeps of a processor's packages (RAPL).

Linux Documentation/power/powercap/powercap.rst: ``energy_uj`` counts microjoules and begins anew behind
``max_energy_range_uj``. Most machines let only root read it, and virtual ones have none.
"""

import re
import time
from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from workers.compression.harness import Feed

_ROOT = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"[a-z-]+:\d+")
"""Packages alone: their parts, named with a second number, are contained in them."""
_SECONDS = 1.0


def read(root: Path = _ROOT) -> Mapping[str, tuple[int, int]]:
    """Give for each package its counter and where that begins anew, in microjoules; empty where none can be read."""
    found = {}
    try:
        for folder in sorted(root.iterdir()):
            if _PACKAGE.fullmatch(folder.name) and (folder / "energy_uj").exists():
                files = (folder / "energy_uj", folder / "max_energy_range_uj")
                found[folder.name] = (int(files[0].read_text()), int(files[1].read_text()))
    except (OSError, ValueError):
        return {}
    return found


def used_millijoules(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> float:
    """Give what all packages used between two readings that are less than one turn of a counter apart."""
    return sum((after[name][0] - start) % (turn + 1) for name, (start, turn) in before.items()) / 1000


def measure(session: onnxruntime.InferenceSession, feed: Feed, root: Path = _ROOT) -> float | None:
    """Run batches for a second; give the millijoules of one, with all else that the packages did; null if untold."""
    before = read(root)
    if not before:
        return None
    runs, deadline = 0, time.perf_counter() + _SECONDS
    while time.perf_counter() < deadline:
        session.run(None, feed)
        runs += 1
    after = read(root)
    return used_millijoules(before, after) / runs if after.keys() == before.keys() else None
