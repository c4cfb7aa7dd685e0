"""What the calibration rows show: the rows themselves, and the range of every value that will be an integer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, cast

import numpy as np
import torch
from torch import fx
from torch.fx import GraphModule, Node

from app.domain.errors import InvalidDataset, RangeNotFound
from workers.compression.inference import first_output
from workers.compression.network import Network
from workers.compression.quantization import kernels
from workers.compression.quantization.ranges import Histogram
from workers.compression.step import Context

SPLIT = "calibration"
Inputs = tuple[torch.Tensor, ...]


def calibration_rows(network: Network, context: Context, samples: int, batch_size: int) -> list[Inputs]:
    """Read the first ``samples`` calibration rows in batches; a fixed batch is filled up with repeated rows.

    Raises:
        InvalidDataset: there is no such row, or one holds a value that is not finite.
    """
    available = context.data.rows(SPLIT)
    if not available:
        raise InvalidDataset(
            "The data set has no calibration rows, and no train rows to take them from.",
            hint="Add calibration.x with a few hundred rows such as the network will meet.",
        )
    batches = []
    for inputs in read_rows(network, context, SPLIT, np.arange(available)[:samples], batch_size):
        for spec, values in zip(network.signature.inputs, inputs, strict=True):
            if not torch.isfinite(values).all():
                raise InvalidDataset(f"The calibration rows of {spec.name} hold NaN or infinite values.")
        batches.append(inputs)
    return batches


def read_rows(
    network: Network, context: Context, split: str, rows: np.ndarray[Any, np.dtype[np.int64]], batch_size: int
) -> Iterator[Inputs]:
    """Read rows of a split in batches; the last of a network with a fixed batch is filled up with repeated rows."""
    size = batch_size if network.batch_is_dynamic else network.rows
    for start in range(0, len(rows), size):
        picked = rows[start : start + size]
        yield context.data.gather(split, picked if network.batch_is_dynamic else np.resize(picked, size))[0]


def run_batches(run: Callable[..., Any], batches: Iterable[Inputs]) -> torch.Tensor:
    """Give the first output of a module or a graph over all batches, (rows, …), in float."""
    with torch.no_grad():
        return torch.cat([first_output(run(*inputs)).float() for inputs in batches])


def observe(
    module: GraphModule, names: AbstractSet[str], batches: Sequence[Inputs], progress: Callable[[float], None]
) -> dict[str, Histogram]:
    """Give what passes at each named node of the float graph; ``progress`` hears of the share that is done.

    Raises:
        RangeNotFound: a value is NaN or infinite, or one and the same on all rows.
    """
    observation = _Observation(module, names)
    with torch.no_grad():
        for index, inputs in enumerate(batches):
            observation.run(*inputs)
            progress((index + 1) / len(batches))
    rows = sum(len(inputs[0]) for inputs in batches)
    nodes = {node.name: node for node in module.graph.nodes}
    for name, seen in observation.seen.items():
        place = f"The value {name!r}{_place(nodes[name])}"
        if not seen.finite:
            raise RangeNotFound(
                f"{place} is NaN or infinite on calibration rows.",
                hint="Look for a division by zero or an overflow before it, or exclude the layers that read it.",
            )
        if seen.constant:
            raise RangeNotFound(
                f"{place} is {seen.low:g} everywhere on all {rows} calibration rows: it has no range.",
                hint="Calibrate on rows that differ, remove what is dead, or exclude the layers around it.",
            )
    return observation.seen


def _place(node: Node) -> str:
    """Say behind which layer a value stands, by a name that the user knows."""
    while node.target not in kernels.WEIGHTED and isinstance(node.args[0] if node.args else None, Node):
        node = cast("Node", node.args[0])
    return f", behind {kernels.layer_name(node)}," if node.target in kernels.WEIGHTED else ""


class _Observation(fx.Interpreter):
    def __init__(self, module: GraphModule, names: AbstractSet[str]) -> None:
        super().__init__(module)
        self.seen = {node.name: Histogram() for node in module.graph.nodes if node.name in names}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self.seen:
            self.seen[n.name].observe(value)
        return value
