"""What walls and admission add to every job: the start of a process, and the check of files of 46 MB.

``python -m benchmarks.sandbox [ROUNDS]`` prints the median and the least of rounds in which every way takes its turn.
The bound is 300 ms for both together. Admission is timed in a fresh process, as a job does it, with its own loading.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from app.domain.task import Message
from benchmarks.reference import BasicBlock
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
began = time.perf_counter()
from workers.compression.admission import admit
for kind in sys.argv[2:]:
    admit(Path(sys.argv[1], f"file.{kind}"), kind)
print(time.perf_counter() - began)
"""


class ResNet18(nn.Module):
    """The usual layers and sizes: 11.7 M parameters, 46.8 MB of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        stages, before = [], 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            stages += [BasicBlock(before, width, stride), BasicBlock(width, width, 1)]
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pool(self.stages(self.stem(x))).flatten(1))
        return out


class Silent:
    """A watcher with nothing to hear."""

    def message(self, message: Message) -> None:
        raise ValueError(f"the process says {message}")

    def line(self, text: str) -> None:
        raise ValueError(f"the process says {text}")

    def must_stop(self) -> bool:
        return False


def write_files(folder: Path) -> list[str]:
    """Write a network, the same network as ONNX, and a data set; each of some 46 MB. Give their formats."""
    torch.manual_seed(0)
    batch = ({0: Dim("batch", min=1, max=1024)},)
    exported = torch.export.export(ResNet18().eval(), (torch.randn(2, 3, 224, 224),), dynamic_shapes=batch)
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


def in_turn(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Time each way in turn, a round at a time, in milliseconds; one round goes uncounted."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            milliseconds = way() * 1000
            if turn:
                found[name].append(milliseconds)
    return found


def timed(way: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        way()
        return time.perf_counter() - began

    return run


def admission(folder: Path, *formats: str) -> Callable[[], float]:
    """Give the way to admit files in one fresh process that has loaded what the engine's own start loads."""
    command = [sys.executable, "-c", _ADMIT, str(folder), *formats]
    return lambda: float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


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
    for title, figures in (("start", started), ("admit", admitted)):
        for way, values in figures.items():
            size = f", {sizes[way]:.1f} MB" if way in sizes else ""
            print(f"{title} {way + size:18} {statistics.median(values):6.1f} ms  (least {min(values):.1f})")
    for isolation in [name for name in (BUBBLEWRAP.name, LANDLOCK.name) if name in started]:
        both = (
            of(started[isolation]) - of(started["bare"]) + of(admitted["pt2 and npz"])
            for of in (statistics.median, min)
        )
        print("a job within {} takes {:.0f} ms more (least {:.0f}); bound {}".format(isolation, *both, BOUND_MS))


if __name__ == "__main__":
    main()
