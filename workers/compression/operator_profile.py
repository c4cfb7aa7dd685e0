"""Where the time of a file goes, by ONNX Runtime's own profiler, and where its bytes lie."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from app.domain.report import OperatorFigures
from workers.compression import harness

MOST_RUNS, FEWEST_RUNS, SECONDS = 30, 4, 2.0
WARM_UP_RUNS = 2
_KERNEL = "_kernel_time"
_RUN = "model_run"
_PASSING = frozenset({"DequantizeLinear", "QuantizeLinear", "Identity", "Transpose", "Reshape", "Cast"})
"""What stands between stored weights and the operator that computes with them."""


@dataclass(frozen=True)
class OperatorProfile:
    """``outside`` is the share of a run that is spent within no operator: dispatch, copies, the runtime itself."""

    operators: tuple[OperatorFigures, ...]
    outside: float


def profile_operators(path: Path, batch_size: int, threads: int, seed: int) -> OperatorProfile:
    """Run the file a few times under the profiler, operators by falling time of a run.

    The profiler slows short operators down, so that its times add up to more than a run without it.
    """
    events = _run(path, batch_size, threads, seed)
    runs = sorted((event for event in events if event["name"] == _RUN), key=lambda event: event["ts"])[WARM_UP_RUNS:]
    begin = runs[0]["ts"]
    spent: dict[str, float] = defaultdict(float)
    nodes: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if event["name"].endswith(_KERNEL) and event["ts"] >= begin:
            kind = event["args"]["op_name"]
            spent[kind] += event["dur"] / 1000 / len(runs)
            nodes[kind].add(event["name"])
    whole = sum(event["dur"] for event in runs) / 1000 / len(runs)
    stored = weight_bytes(path)
    inside = sum(spent.values())
    figures = [
        OperatorFigures(
            operator=kind,
            nodes=len(nodes[kind]),
            time_ms=spent.get(kind, 0.0),
            time_share=spent.get(kind, 0.0) / max(inside, 1e-12),
            weight_bytes=stored.get(kind, 0),
        )
        for kind in spent.keys() | stored.keys()
    ]
    figures.sort(key=lambda found: (-found.time_ms, found.operator))
    return OperatorProfile(tuple(figures), max(0.0, 1 - inside / max(whole, 1e-12)))


def _run(path: Path, batch_size: int, threads: int, seed: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, harness.pinned(threads) as usable:
        session = harness.open_session(path, usable, profile=str(Path(folder) / "profile"))
        rows = harness.make_rows(session, seed)
        feed = harness.make_feed(session, rows, harness.fixed_batch(session) or batch_size)
        deadline = time.perf_counter() + SECONDS
        for number in range(MOST_RUNS):
            if number >= FEWEST_RUNS and time.perf_counter() > deadline:
                break
            session.run(None, feed)
        written = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event for event in written if event.get("cat") in {"Node", "Session"}]


def weight_bytes(path: Path) -> dict[str, int]:
    """Give the bytes of the stored values that each kind of operator computes with, by the file as written."""
    graph = onnx.load(path).graph
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    found: dict[str, int] = defaultdict(int)
    for value in graph.initializer:
        size = numpy_helper.to_array(value).nbytes
        kinds = sorted(_computing(value.name, readers))
        if kinds:
            found[kinds[0]] += size
    return dict(found)


def _computing(name: str, readers: Mapping[str, Iterable[onnx.NodeProto]]) -> set[str]:
    kinds: set[str] = set()
    for node in readers.get(name, ()):
        passing = node.op_type in _PASSING and node.input[0] == name
        kinds |= _computing(node.output[0], readers) if passing else {node.op_type}
    return kinds


def streamed_bytes_per_second() -> float:
    """Measure how fast this machine reads memory that no cache holds: 256 MiB, the best of three."""
    values = np.ones(1 << 25, np.float64)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        values.sum()
        best = min(best, time.perf_counter() - began)
    return values.nbytes / best
