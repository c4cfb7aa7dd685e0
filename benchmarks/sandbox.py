"""What walls and admission add to every job: the start of a process, and the check of files of 46 MB.

``python -m benchmarks.sandbox [ROUNDS]`` prints medians over rounds in which every way takes its turn: of the clock's
time, and of the processor's, which tells more where others use the machine too. The bound is 300 ms for both together.
Admission is timed in a fresh process, as a job does it, with its own loading. Of the process within bubblewrap the
kernel tells nobody what it worked, for nobody waits for it: there the clock alone counts.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from app.domain.task import Message
from benchmarks.reference import ResNet
from workers.compression.formats import onnx, pt2
from workers.isolation.backends import BUBBLEWRAP, LANDLOCK, NONE, works
from workers.isolation.policy import GIBIBYTE, Limits
from workers.sandbox import Sandbox, supervise

BOUND_MS = 300
_LIMITS = Limits(memory_bytes=4 * GIBIBYTE, disk_bytes=GIBIBYTE)
_IMAGES = 76
_ADMIT = """
import sys, time, app.domain.task
from pathlib import Path
began, spent = time.perf_counter(), time.process_time()
from workers.compression.admission import admit
for kind in sys.argv[2:]:
    admit(Path(sys.argv[1], f"file.{kind}"), kind)
print(time.perf_counter() - began, time.process_time() - spent)
"""


class Cost(NamedTuple):
    """Milliseconds by the clock, and of the processor's work."""

    clock: float
    processor: float


Way = Callable[[], Cost]


def resnet18() -> ResNet:
    """Give the usual layers and sizes: 11.7 M parameters, 46.8 MB of them."""
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return ResNet(stem, (64, 128, 256, 512), 1000)


class Silent:
    """A watcher with nothing to hear."""

    def message(self, message: Message) -> None:
        raise ValueError(f"the process says {message}")

    def line(self, text: str) -> None:
        raise ValueError(f"the process says {text}")

    def must_stop(self) -> bool:
        return False

    def turn_comes(self) -> bool:
        return False


def write_files(folder: Path) -> list[str]:
    """Write a network, the same network as ONNX, and a data set; each of some 46 MB. Give their formats."""
    torch.manual_seed(0)
    batch = ({0: Dim("batch", min=1, max=1024)},)
    exported = torch.export.export(resnet18().eval(), (torch.randn(2, 3, 224, 224),), dynamic_shapes=batch)
    torch.export.save(exported, folder / "file.pt2")
    onnx.save(pt2.load(folder / "file.pt2"), folder / "file.onnx")
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(_IMAGES, 3, 224, 224)).astype("float32"), rng.integers(0, 1000, _IMAGES)
    with (folder / "file.npz").open("wb") as file:
        np.savez(file, images=images, labels=labels)
    return ["pt2", "onnx", "npz"]


def starts(folder: Path) -> dict[str, Callable[[], object]]:
    """Give each way to start and end an interpreter that does nothing."""
    argv = [sys.executable, "-c", "pass"]

    def within(sandbox: Sandbox) -> Callable[[], object]:
        return lambda: supervise(argv, folder, Silent(), sandbox, threads=1)

    ways: dict[str, Callable[[], object]] = {"bare": lambda: subprocess.run(argv, check=True)}
    ways["supervised"] = within(Sandbox(NONE, _LIMITS))
    for isolation in (BUBBLEWRAP, LANDLOCK):
        if works(isolation):
            ways[isolation.name] = within(Sandbox(isolation, _LIMITS))
    return ways


def in_turn(ways: dict[str, Way], rounds: int) -> dict[str, Cost]:
    """Do each in turn, a round at a time, and give the medians; one round goes uncounted."""
    found: dict[str, list[Cost]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            cost = way()
            if turn:
                found[name].append(cost)
    return {name: Cost(*map(statistics.median, zip(*costs, strict=True))) for name, costs in found.items()}


def _spent_seconds() -> float:
    """Add up what the processor worked for this process and all that it has waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(way: Callable[[], object]) -> Way:
    def run() -> Cost:
        began, spent = time.perf_counter(), _spent_seconds()
        way()
        return Cost((time.perf_counter() - began) * 1000, (_spent_seconds() - spent) * 1000)

    return run


def admission(folder: Path, *formats: str) -> Way:
    """Give the way to admit files in one fresh process that has loaded what the engine's own start loads."""
    command = [sys.executable, "-c", _ADMIT, str(folder), *formats]

    def run() -> Cost:
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return Cost(*(float(seconds) * 1000 for seconds in told.split()))

    return run


def _told(way: str, cost: Cost) -> str:
    clock = f"{cost.clock:6.1f} ms"
    return clock if way == BUBBLEWRAP.name else f"{clock}, of the processor {cost.processor:6.1f} ms"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory(prefix="winnow-sandbox-") as name:
        folder = Path(name)
        formats = write_files(folder)
        (folder / "job").mkdir()
        ways = {way: timed(start) for way, start in starts(folder / "job").items()}
        started = in_turn(ways, rounds)
        checks = {"nothing": admission(folder), **{kind: admission(folder, kind) for kind in formats}}
        admitted = in_turn({**checks, "pt2 and npz": admission(folder, "pt2", "npz")}, rounds)
        sizes = {kind: (folder / f"file.{kind}").stat().st_size / 1e6 for kind in formats}
    for title, costs in (("start", started), ("admit", admitted)):
        for way, cost in costs.items():
            size = f", {sizes[way]:.1f} MB" if way in sizes else ""
            print(f"{title} {way + size:18} {_told(way, cost)}")
    for isolation in [name for name in (BUBBLEWRAP.name, LANDLOCK.name) if name in started]:
        parts = zip(started[isolation], started["bare"], admitted["pt2 and npz"], strict=True)
        added = Cost(*(walls - bare + check for walls, bare, check in parts))
        print(f"more for a job within {isolation}: {_told(isolation, added)}; bound {BOUND_MS} ms")


if __name__ == "__main__":
    main()
