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
from numpy.typing import NDArray
from onnx import numpy_helper

from app.domain.report import OperatorFigures
from workers.compression import harness
from workers.compression.harness import Feed

MOST_RUNS, FEWEST_RUNS, SECONDS = 300, 12, 2.0
MOST_SECONDS = 60.0
MOST_EVENTS = 60_000
"""What the profiler writes down at most: about 25 MB."""
WARM_UP_RUNS = 2
TRIES = 3
MOST_APART = 0.25
"""Share of the unprofiled median run by which the operators' sum may miss it."""
DISPATCH_MS, DISPATCH_MS_A_NODE = 0.05, 0.01
"""What a run may take beside its operators before the operators' sum is taken to miss it."""
CHAIN = 64
TICK_MS = 0.001
"""The profiler cuts off what is less than a microsecond of each operator's run."""
_KERNEL = "_kernel_time"
_RUN = "model_run"
_LOOKUPS = frozenset({"Gather", "GatherBlockQuantized", "GatherElements", "GatherND"})
"""What reads of its stored values only the rows that are asked for."""
_UNITS = {"K": 2**10, "M": 2**20}
_PASSING = frozenset({"DequantizeLinear", "QuantizeLinear", "Identity", "Transpose", "Reshape", "Cast"})
"""What stands between stored weights and the operator that computes with them."""


@dataclass(frozen=True)
class OperatorProfile:
    """Times are means of the middle half of runs; ``kernels_ms`` is their sum, ``bytes_read`` of stored values a run.

    ``noisy`` says that the sum stayed too far from the run's time without the profiler to rest a reason on.
    """

    operators: tuple[OperatorFigures, ...]
    kernels_ms: float
    nodes: int
    bytes_read: int
    noisy: bool

    def outside(self, p50_ms: float) -> float:
        """Give the share of an unprofiled run that is surely spent within no operator."""
        return max(0.0, 1 - (self.kernels_ms + self.nodes * TICK_MS) / p50_ms)


def profile_operators(path: Path, rows: Feed, batch_size: int, threads: int, p50_ms: float) -> OperatorProfile:
    """Run the file under the profiler, again where its operators' sum misses ``p50_ms``; operators by falling time.

    ``p50_ms`` is the median run without the profiler. Operators are those that the runtime runs, fused, and so are
    their stored values. What the profiler itself adds to each is taken off.
    """
    best: OperatorProfile | None = None
    for _ in range(TRIES):
        own_ms = profilers_own_ms(threads)
        found = _profile(path, rows, batch_size, threads, p50_ms, own_ms)
        if best is None or abs(found.kernels_ms - p50_ms) < abs(best.kernels_ms - p50_ms):
            best = found
        if not found.noisy:
            return found
    assert best is not None
    return best


def is_apart(kernels_ms: float, nodes: int, p50_ms: float) -> bool:
    """Tell whether operators' times cannot be of such runs: above them by a quarter, or below beyond dispatch.

    Above, a microsecond a node is the profiler's, which adds more to some than to the least.
    """
    dispatch = DISPATCH_MS + nodes * DISPATCH_MS_A_NODE
    return not (1 - MOST_APART) * p50_ms - dispatch <= kernels_ms <= (1 + MOST_APART) * p50_ms + nodes * TICK_MS


def profilers_own_ms(threads: int) -> float:
    """Measure what the profiler adds to an operator's time at least, on a chain of operators on one number.

    Their time under it, less what each takes of a run without it, dispatch and all.
    """
    nodes = [onnx.helper.make_node("Sin", [f"x{place}"], [f"x{place + 1}"]) for place in range(CHAIN)]
    ends = [onnx.helper.make_tensor_value_info(f"x{place}", onnx.TensorProto.FLOAT, [1]) for place in (0, CHAIN)]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    rows = {"x0": np.ones(1, np.float32)}
    with tempfile.TemporaryDirectory() as folder, harness.pinned(threads) as usable:
        path = Path(folder) / "chain.onnx"
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
        session = harness.open_session(path, usable)
        samples, _ = harness.time_pair(session, session, rows, 1, 0.2)
        events, _ = _run(path, rows, 1, usable)
    starts = np.sort([event["ts"] for event in events if event["name"] == _RUN])[WARM_UP_RUNS:]
    spent, _ = _by_node(events, starts)
    under = sum(midmean(durations) for durations in spent.values()) / 1000
    return max(0.0, under - float(np.median(samples))) / CHAIN


def _profile(path: Path, rows: Feed, batch_size: int, threads: int, p50_ms: float, own_ms: float) -> OperatorProfile:
    events, stored = _run(path, rows, batch_size, threads)
    runs = sorted((event for event in events if event["name"] == _RUN), key=lambda event: event["ts"])[WARM_UP_RUNS:]
    spent, facts = _by_node(events, np.array([event["ts"] for event in runs]))
    times: dict[str, float] = defaultdict(float)
    nodes: dict[str, int] = defaultdict(int)
    looked_up = 0
    for name, durations in spent.items():
        kind = facts[name]["op_name"]
        times[kind] += max(0.0, midmean(durations) / 1000 - own_ms)
        nodes[kind] += 1
        if kind in _LOOKUPS:
            looked_up += min(int(facts[name].get("output_size", 0)), stored.get(kind, 0))
    kernels_ms = sum(times.values())
    figures = [
        OperatorFigures(
            operator=kind,
            nodes=nodes.get(kind, 0),
            time_ms=times.get(kind, 0.0),
            time_share=times.get(kind, 0.0) / max(kernels_ms, 1e-12),
            weight_bytes=stored.get(kind, 0),
        )
        for kind in times.keys() | stored.keys()
    ]
    figures.sort(key=lambda found: (-found.time_ms, found.operator))
    read = looked_up + sum(size for kind, size in stored.items() if kind not in _LOOKUPS)
    return OperatorProfile(tuple(figures), kernels_ms, len(spent), read, is_apart(kernels_ms, len(spent), p50_ms))


def _by_node(
    events: Iterable[Mapping[str, Any]], starts: NDArray[Any]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Mapping[str, Any]]]:
    """Give for each node its microseconds in each run, (runs,), and what the profiler said of it last."""
    spent: dict[str, NDArray[np.float64]] = {}
    facts: dict[str, Mapping[str, Any]] = {}
    for event in events:
        place = int(np.searchsorted(starts, event["ts"], side="right")) - 1
        if event["name"].endswith(_KERNEL) and place >= 0:
            # A node within a loop runs several times a run.
            spent.setdefault(event["name"], np.zeros(len(starts)))[place] += event["dur"]
            facts[event["name"]] = event["args"]
    return spent, facts


def midmean(values: NDArray[np.float64]) -> float:
    """Give the mean of the middle half: as deaf to a stall as the median, and finer than the whole microseconds."""
    ordered, cut = np.sort(values), len(values) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def _run(path: Path, rows: Feed, batch_size: int, threads: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Give what the profiler wrote, and the stored bytes by kind in the graph that the runtime made of the file."""
    with tempfile.TemporaryDirectory() as folder, harness.pinned(threads) as usable:
        optimized = Path(folder) / "optimized.onnx"
        session = harness.open_session(path, usable, profile=str(Path(folder) / "profile"), optimized=optimized)
        graph = onnx.load(optimized).graph
        feed = harness.make_feed(session, rows, harness.fixed_batch(session) or batch_size)
        began = time.perf_counter()
        for number in range(max(FEWEST_RUNS, min(MOST_RUNS, MOST_EVENTS // max(1, len(graph.node))))):
            taken = time.perf_counter() - began
            if (number >= FEWEST_RUNS and taken > SECONDS) or (number > WARM_UP_RUNS and taken > MOST_SECONDS):
                break
            session.run(None, feed)
        written = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event for event in written if event.get("cat") in {"Node", "Session"}], bytes_by_kind(graph)


def bytes_by_kind(graph: onnx.GraphProto) -> dict[str, int]:
    """Give the bytes of the stored values that each kind of operator of a graph computes with."""
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


def cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """Give the size of the largest cache that the kernel tells of; null where it tells of none."""
    sizes = []
    for path in root.glob("index*/size"):
        number, unit = path.read_text().strip()[:-1], path.read_text().strip()[-1:]
        if number.isdigit() and unit in _UNITS:
            sizes.append(int(number) * _UNITS[unit])
    return max(sizes, default=None)
