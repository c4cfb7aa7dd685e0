"""The plots of a report."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from app.domain.report import ClassFigures, LayerFigures, OperatorFigures
from workers.compression.latency import PairedLatency
from workers.compression.pages.svg import BASELINE, COMPRESSED, FAINT, INK, Plot, plot
from workers.compression.pages.words import milliseconds, share, shorten, significant, size, threads

MOST_CLASSES, MOST_LAYERS, MOST_OPERATORS, MOST_PAIRS = 24, 40, 12, 8
_BINS = 80
_TAIL = 99.0
"""Percentile at which a plot of latency ends: the few beyond would press the rest together."""
_WIDE = 2.5
"""Ratio of the ends above which an axis of latencies is logarithmic."""
_DECADE = 10
_NAME_LENGTH = 24
_DASHES = (0, (4, 2))


def draw_latency(pair: PairedLatency, place: int = 1) -> Plot:
    """Draw how the runs of both files are spread: the share of runs in each of 80 bins."""
    before, after = np.asarray(pair.baseline_ms), np.asarray(pair.compressed_ms)
    low = min(before.min(), after.min()) * 0.98
    high = max(np.percentile(before, _TAIL), np.percentile(after, _TAIL)) * 1.02
    wide = high / low > _WIDE
    edges = np.geomspace(low, high, _BINS + 1) if wide else np.linspace(low, high, _BINS + 1)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for samples, colour, name, dashes in (
            (before, BASELINE, "baseline", _DASHES),
            (after, COMPRESSED, "compressed", "solid"),
        ):
            heights = np.histogram(samples, edges)[0] / len(samples)
            axes.stairs(heights, edges, fill=True, color=colour, alpha=0.3)
            axes.stairs(heights, edges, color=colour, linestyle=dashes, label=name)
            axes.axvline(float(np.median(samples)), color=colour, linestyle=dashes, linewidth=1)
        if wide:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > _DECADE else (1, 1.5, 2, 3, 5, 7)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("milliseconds a batch")
        axes.set_ylabel("share of runs")
        _legend(axes)

    label = (
        f"Latency at batch {pair.batch_size}, {threads(pair.threads)}: the median of {len(before)} runs is"
        f" {milliseconds(pair.baseline.p50_ms)} for the baseline and {milliseconds(pair.compressed.p50_ms)} for the"
        " compressed file."
    )
    beyond = sum(int((samples > high).sum()) for samples in (before, after))
    caption = f"Batch {pair.batch_size}, {threads(pair.threads)}: {len(before)} pairs of runs; lines at the medians."
    if beyond:
        caption += f" {beyond} slower runs lie beyond the right end."
    return plot(f"latency-{place}", 2.3, paint, label=label, caption=caption)


def worst_class(classes: Sequence[ClassFigures]) -> ClassFigures | None:
    """Give the class that loses most, null where none does."""
    worst = min(classes, key=lambda found: found.compressed - found.baseline, default=None)
    return worst if worst is not None and worst.compressed < worst.baseline else None


def draw_classes(classes: Sequence[ClassFigures], decided: str = "rows") -> Plot | None:
    """Draw accuracy within each class, before and after: of many, those that changed most."""
    if not classes:
        return None
    changed = sorted(classes, key=lambda found: (-abs(found.compressed - found.baseline), found.class_))
    shown = sorted(changed[:MOST_CLASSES], key=lambda found: found.class_)
    worst = worst_class(classes)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = range(len(shown))
        before, after = [found.baseline for found in shown], [found.compressed for found in shown]
        axes.hlines(places, before, after, color=FAINT, linewidth=1.5)
        axes.plot(before, places, "o", color=BASELINE, markerfacecolor="none", markersize=7, label="baseline")
        axes.plot(after, places, "o", color=COMPRESSED, markersize=4, label="compressed")
        name_rows(axes, [shorten(found.label, 24) for found in shown])
        axes.set_xlabel("accuracy within the class")
        axes.set_ylabel("class")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        _legend(axes)

    told = "No class loses."
    if worst is not None:
        told = (
            f"Class {shorten(worst.label, 60)} loses most: from {share(worst.baseline)} to {share(worst.compressed)} of"
            f" {worst.samples} {decided}."
        )
    label = f"Accuracy within {len(shown)} of {len(classes)} classes. {told}"
    few = (
        f"The {len(shown)} of {len(classes)} classes that changed most." if len(shown) < len(classes) else "Each class."
    )
    with any_script():
        return plot("classes", _height(len(shown)), paint, label=label, caption=f"{few} The table has every figure.")


def draw_layers(layers: Sequence[LayerFigures]) -> Plot | None:
    """Draw signal over quantization noise and the share of zeros, layer by layer; null where there is neither."""
    noisy = any(found.sqnr_db is not None for found in layers)
    if not noisy and not any(found.sparsity for found in layers):
        return None
    ranked = sorted(layers, key=lambda found: (found.sqnr_db is None, found.sqnr_db or 0.0, -found.sparsity))
    chosen = {id(found) for found in ranked[:MOST_LAYERS]}
    shown = [found for found in layers if id(found) in chosen]

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        places = range(len(shown))
        left.barh(places, [finite(found.sqnr_db) for found in shown], color=COMPRESSED, height=0.7)
        right.barh(places, [found.sparsity for found in shown], color=BASELINE, height=0.7)
        name_rows(left, [shorten(found.name, _NAME_LENGTH) for found in shown])
        right.tick_params(axis="y", length=0)
        left.set_xlabel("SQNR, dB")
        right.set_xlabel("share of zeros")
        right.set_xlim(0, 1)
        right.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
        left.xaxis.set_major_locator(MaxNLocator(3))

    worst = ranked[0]
    told = f"{worst.sqnr_db:.1f} dB in {shorten(worst.name, 60)}" if worst.sqnr_db is not None else "not measured"
    label = f"Layers: the lowest signal-to-quantization-noise ratio is {told}; bars on the right are shares of zeros."
    few = (
        f"The {len(shown)} of {len(layers)} layers with the most noise." if len(shown) < len(layers) else "Each layer."
    )
    caption = f"{few} A higher SQNR is better; layers in float have none."
    with any_script():
        return plot("layers", _height(len(shown)), paint, label=label, caption=caption)


def draw_training(key: str, name: str, epochs: Sequence[dict[str, Any]]) -> Plot | None:
    """Draw what each epoch of a training ended with, one panel a figure."""
    figures = [field for field in epochs[0] if field != "epoch"] if epochs else []
    if not figures:
        return None
    at = [int(row["epoch"]) for row in epochs]

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(figures), 1, sharex=True, squeeze=False)[:, 0]
        for axes, field in zip(panels, figures, strict=True):
            values = [finite(row.get(field)) for row in epochs]
            axes.plot(at, values, color=COMPRESSED, marker="o" if len(at) <= _BINS else None, markersize=3)
            axes.set_ylabel(field.replace("_", " "))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))

    last = ", ".join(f"{field.replace('_', ' ')} {significant(finite(epochs[-1].get(field)))}" for field in figures)
    label = f"{name}: after epoch {at[-1]} {last}."
    with any_script():
        return plot(key, 0.5 + 1.15 * len(figures), paint, label=label, caption=f"{name}, by epoch.")


def draw_operators(before: Sequence[OperatorFigures], after: Sequence[OperatorFigures]) -> Plot | None:
    """Draw where the time of a run and the stored bytes of both files lie."""
    sides = [{found.operator: found for found in side} for side in (before, after)]
    names = sorted({*sides[0], *sides[1]}, key=lambda name: (-sum(_time(side, name) for side in sides), name))
    if not names:
        return None
    shown = names[:MOST_OPERATORS]

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for offset, side, colour, name in (
            (-0.2, sides[0], BASELINE, "baseline"),
            (0.2, sides[1], COMPRESSED, "compressed"),
        ):
            places = [place + offset for place in range(len(shown))]
            left.barh(places, [_time(side, kind) for kind in shown], 0.36, color=colour, label=name)
            right.barh(places, [_bytes(side, kind) / 1e3 for kind in shown], 0.36, color=colour)
        name_rows(left, [shorten(kind, _NAME_LENGTH) for kind in shown])
        right.tick_params(axis="y", length=0)
        left.set_xlabel("ms a run")
        right.set_xlabel("stored values, kB")
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figure.legend(loc="outside upper left", ncols=2)

    slowest = names[0]
    label = (
        f"Operators: {shorten(slowest, 60)} takes most time, {milliseconds(_time(sides[0], slowest))} a run in the"
        f" baseline and {milliseconds(_time(sides[1], slowest))} in the compressed file; its stored values have"
        f" {size(_bytes(sides[0], slowest))} and {size(_bytes(sides[1], slowest))}."
    )
    few = (
        f"The {len(shown)} of {len(names)} kinds that take most."
        if len(shown) < len(names)
        else "Each kind of operator."
    )
    with any_script():
        return plot("operators", _height(len(shown), 0.3) + 0.2, paint, label=label, caption=few)


def _time(side: dict[str, OperatorFigures], kind: str) -> float:
    return side[kind].time_ms if kind in side else 0.0


def _bytes(side: dict[str, OperatorFigures], kind: str) -> int:
    return side[kind].weight_bytes if kind in side else 0


def name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, labelcolor=INK)


def _height(rows: int, each: float = 0.19) -> float:
    return 0.8 + each * max(rows, 2)


def finite(value: float | None) -> float:
    return float(value) if value is not None and np.isfinite(value) else float("nan")


@contextmanager
def any_script() -> Iterator[None]:
    """Bear names in letters that the font for measuring lacks: the page is shown in the reader's own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")
        yield
