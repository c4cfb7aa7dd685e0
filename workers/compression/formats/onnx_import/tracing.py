"""From a graph to a network: which dimensions stay dynamic, which sizes to trace with, and the batch of one row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch.export import Dim

from app.domain.errors import UnsupportedNetwork
from workers.compression.formats.onnx_import.graph import Array, Graph, Input
from workers.compression.formats.onnx_import.interpreter import Interpreter
from workers.compression.formats.onnx_import.names import argument
from workers.compression.formats.onnx_import.placement import place
from workers.compression.lifting import lift
from workers.compression.network import Network

SIZES_TRIED = (64, 32, 128, 16, 224, 256, 8, 299, 512, 16_000)
"""For dynamic dimensions but the batch: the first that the file itself runs with."""
LONG_SIZES_TRIED = (16_000, 512, 299, 256, 224, 128)
TOKENS_TRIED = (12, 24)
"""Before the others where whole numbers come in: a size that is as large as a table of positions is taken for it."""
ROWS = 2
MOST_ROWS = 1 << 20
"""A bound that no batch meets; some exporters write comparisons of sizes with numbers far above it."""


@dataclass(frozen=True)
class Trial:
    """Sizes to trace with, and for each input which of its dimensions may change."""

    sizes: tuple[tuple[int, ...], ...]
    dynamic: tuple[frozenset[int], ...]
    frees_batch: bool = False


def trials(graph: Graph, session: onnxruntime.InferenceSession) -> Iterator[Trial]:
    """Give ways to trace the graph, the freest first.

    Models are kept with the place of theirs: what is added here comes last.

    Raises:
        UnsupportedNetwork: the file runs with none of the sizes that are tried.
    """
    sizes, rows = _running_sizes(graph, session, SIZES_TRIED)
    dynamic = [frozenset(a for a, size in enumerate(each.sizes) if not isinstance(size, int)) for each in graph.inputs]
    if rows == 1:
        dynamic = [axes - {0} for axes in dynamic]
    if _fixed_at_one_row(graph.inputs):
        freed = tuple((ROWS, *each[1:]) for each in sizes)
        yield Trial(freed, tuple(axes | {0} for axes in dynamic), frees_batch=True)
    yield Trial(sizes, tuple(dynamic))
    if any(axes - {0} for axes in dynamic):
        # Short ones may go a way of their own through the graph, such as padding up to a whole window.
        try:
            long = _running_sizes(graph, session, LONG_SIZES_TRIED)[0]
        except UnsupportedNetwork:
            return  # what was wrong with the others is to be told
        yield Trial(long, tuple(dynamic))
        return
    fixed = tuple((1, *sizes[place][1:]) if 0 in axes else sizes[place] for place, axes in enumerate(dynamic))
    yield Trial(fixed, tuple(frozenset() for _ in dynamic))


def _fixed_at_one_row(inputs: list[Input]) -> bool:
    return all(each.sizes and each.sizes[0] == 1 and isinstance(each.sizes[0], int) for each in inputs)


def _running_sizes(
    graph: Graph, session: onnxruntime.InferenceSession, sizes_tried: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Find sizes with which the file runs; with a batch of one row where it runs with no other."""
    last = ""
    tried = (*TOKENS_TRIED, *sizes_tried) if any(each.dtype.kind == "i" for each in graph.inputs) else sizes_tried
    for rows in (ROWS, 1):
        for size in tried:
            sizes = tuple(_sized(each, size, rows) for each in graph.inputs)
            try:
                session.run(None, {i.name: _ones(i, shape) for i, shape in zip(graph.inputs, sizes, strict=True)})
            except Exception as fault:  # noqa: BLE001 - the runtime has no root for its errors
                last = str(fault)
            else:
                return sizes, rows
            if not any(isinstance(each, str) or each is None for i in graph.inputs for each in i.sizes[1:]):
                break
    if all(isinstance(size, int) for each in graph.inputs for size in each.sizes[1:]):
        shapes = ", ".join(f"{each.name} of {list(each.sizes)}" for each in graph.inputs)
        raise UnsupportedNetwork(
            f"The file does not run with its own inputs, {shapes}: {last[:200]}",
            hint="Run it in ONNX Runtime with rows of yours, and export it anew where it does not.",
        )
    raise UnsupportedNetwork(
        f"The file runs with none of the sizes tried for its dynamic dimensions: {last[:200]}",
        hint="Export it with fixed sizes but for the batch.",
    )


def _sized(given: Input, size: int, rows: int) -> tuple[int, ...]:
    return tuple(
        each if isinstance(each, int) else rows if axis == 0 else size for axis, each in enumerate(given.sizes)
    )


def _ones(given: Input, shape: tuple[int, ...]) -> Array:
    return np.ones(shape, dtype=given.dtype)


def trace(graph: Graph, trial: Trial) -> Network:
    """Trace the graph as one way has it.

    Raises:
        UnsupportedNetwork: an operator does what none here does.
        Exception: whatever torch raises on what cannot be traced so.
    """
    taken: set[str] = set()
    names = [argument(each.name, taken) for each in graph.inputs]
    module = Interpreter(graph, place(graph), names, frees_batch=trial.frees_batch).eval()
    examples = tuple(
        torch.from_numpy(_ones(each, shape)) for each, shape in zip(graph.inputs, trial.sizes, strict=True)
    )
    batch = Dim("batch", max=MOST_ROWS)
    shapes = tuple({axis: Dim.AUTO if axis else batch for axis in axes} for axes in trial.dynamic)
    exported = torch.export.export(module, examples, dynamic_shapes=shapes)
    return lift(exported)
