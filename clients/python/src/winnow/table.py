"""A report as a table for a terminal."""

from collections.abc import Mapping
from typing import Any


def table(report: Mapping[str, Any]) -> str:
    """Lay baseline and result side by side; where nothing was compressed, the baseline alone."""
    before, after, delta = report["baseline"], report["compressed"], report["delta"]
    # The first is the one that the task is judged by.
    metric = report["objective"]["metric"] if report["objective"] else next(iter(before["metrics"]))
    sides = [side for side in (before, after) if side]
    rows = [
        (f"{metric} [95 %]", [_measured(side, metric) for side in sides]),
        *((f"latency {it} (ms)", [_latency(side, it) for side in sides]) for it in ("p50", "p95")),
        ("file (bytes)", [f"{side['size_bytes']:,}" for side in sides]),
        ("parameters", [f"{side['parameters']:,}" for side in sides]),
        ("MACs a row", [f"{side['macs']:,}" for side in sides]),
    ]
    header = ("", ["before", "after"] if after else ["measured"])
    gains = ["gain", *_gains(before, after, delta)] if after else [""] * (len(rows) + 1)
    width = max(17, *(len(name) + 2 for name, _ in rows))
    lines = [
        f"{name:<{width}}" + "".join(f"{cell:>26}" for cell in cells) + f"{gain:>21}"
        for (name, cells), gain in zip((header, *rows), gains, strict=True)
    ]
    return "\n".join([line.rstrip() for line in lines] + list(report["verdict"]["reasons"]))


def _measured(side: Mapping[str, Any], metric: str) -> str:
    found = side["metrics"][metric]
    low, high = found["ci95"]
    return f"{found['value']:.4f} [{low:.4f}, {high:.4f}]"


def _latency(side: Mapping[str, Any], quantile: str) -> str:
    # An analysis times nothing.
    return f"{side['latency'][0][f'{quantile}_ms']:.3f}" if side["latency"] else "-"


def _gains(before: Mapping[str, Any], after: Mapping[str, Any], delta: Mapping[str, Any]) -> list[str]:
    drop, ratio = delta["metric_drop"]["value"], delta["latency_ratio"]
    low, high = ratio["ci95"]
    return [
        f"{abs(drop):.4f} {'gained' if drop < 0 else 'lost'}",
        f"{ratio['value']:.2f}x [{low:.2f}, {high:.2f}]",
        f"{before['latency'][0]['p95_ms'] / after['latency'][0]['p95_ms']:.2f}x",
        f"{delta['size_ratio']:.2f}x",
        f"{delta['parameters_ratio']:.2f}x",
        f"{delta['macs_ratio']:.2f}x",
    ]
