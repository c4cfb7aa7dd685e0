"""What the cache keeps of the reference cases: files with what they took, lines with what they were measured on."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from app.settings import MEASURING_LOCK
from workers.compression.environment import read_environment
from workers.compression.hits import wilson_interval
from workers.turn import Turn

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One result: ratios are of the float file over it, ``seconds`` what it took from the float network on.

    ``measured_by`` says on what machine and by what code, ``made_by`` by what code the file was made; days beside both.
    """

    right: int
    rows: int
    latency_ratio: float
    latency_ci95: tuple[float, float]
    noisy: bool
    size_ratio: float
    seconds: float
    measured_at: str
    measured_by: str
    made_at: str
    made_by: str

    def __str__(self) -> str:
        low, high = wilson_interval(self.right, self.rows)
        return (
            f"{self.right / self.rows:.4f} ({low:.4f}–{high:.4f}) | {self.latency_ratio:.2f}"
            f" ({self.latency_ci95[0]:.2f}–{self.latency_ci95[1]:.2f}){' noisy' if self.noisy else ''}"
            f" | {self.size_ratio:.2f} | {self.seconds:.0f} | {self.measured_at} | {self._made()}"
        )

    def _made(self) -> str:
        return self.made_at if self.made_by == code_version() else f"{self.made_at}, code {self.made_by}"


@dataclass(frozen=True)
class Made:
    """What a file of the cache took, in seconds, and when and by what code it was made."""

    seconds: float
    at: str
    by: str


@cache
def code_version() -> str:
    """Give a digest of the code that makes and measures: a line of other code is another line."""
    digest = hashlib.sha256()
    for path in sorted(
        [*(ROOT / "workers" / "compression").rglob("*.py"), ROOT / "benchmarks" / "cases.py", Path(__file__)]
    ):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def today() -> str:
    return f"{datetime.now(UTC):%d %B %Y}"


def machine() -> str:
    found = read_environment(1, "")
    return f"{found.cpu}, {', '.join(found.isa)}, ONNX Runtime {found.onnxruntime}"


@contextmanager
def alone(lock: Path = MEASURING_LOCK) -> Iterator[None]:
    """Wait until nobody else measures on this host, and keep others from it meanwhile."""
    with Turn(lock) as turn:
        turn.ask()
        while not turn.comes():
            time.sleep(0.2)
        yield


@dataclass(frozen=True)
class Kept:
    """One case's folder of the cache."""

    folder: Path

    def row(self, slug: str, measure: Callable[[], Row]) -> Row:
        """Give the line as this code has measured it on this machine, or measure it."""
        path = self.folder / f"{slug}.row.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        if found.get("measured_by") != f"{machine()}, code {code_version()}":
            row = measure()
            path.write_text(json.dumps(asdict(row)))
            return row
        return Row(**found | {"latency_ci95": tuple(found["latency_ci95"])})

    def made(self, path: Path, make: Callable[[], float]) -> Made:
        """Say what a file took, making it where it is not there; ``make`` gives the seconds that other files took."""
        kept = path.with_suffix(".made.json")
        if not (path.exists() and kept.exists()):
            began = time.monotonic()
            more = make()
            kept.write_text(json.dumps(asdict(Made(time.monotonic() - began + more, today(), code_version()))))
        return Made(**json.loads(kept.read_text()))
