"""Outputs of a network in torch over rows of a data set."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.domain.errors import DatasetMismatch
from app.domain.model import Signature
from workers.compression.datasets import Dataset
from workers.compression.network import Network

BATCH_ROWS = 256
MOST_VALUES = 2**27
"""Numbers of one output that are held at once, half a gigabyte: a language model has millions for a row."""


def rows_at_once(shape: Sequence[Any], most: int, sizes: Mapping[str, int] | None = None) -> int:
    """Give how many rows, ``most`` at most, have outputs of this shape, (rows, …), that can be held at once.

    ``sizes`` are those of dynamic dimensions; one that is computed from others is taken to be as large as the largest.
    """
    known = sizes or {}
    largest = max(known.values(), default=1)
    values = math.prod(size if isinstance(size, int) else known.get(str(size), largest) for size in shape[1:])
    return max(1, min(most, MOST_VALUES // max(1, values)))


def dynamic_sizes(shapes: Iterable[Sequence[Any]], data: Dataset) -> dict[str, int]:
    """Give the sizes that rows have of dynamic dimensions, by their names in the inputs' shapes, (rows, …)."""
    return {
        name: size
        for shape, row in zip(shapes, data.row_shapes, strict=True)
        for name, size in zip(shape[1:], row, strict=True)
        if isinstance(name, str)
    }


def held_at_once(network: Network, data: Dataset, most: int, place: int = 0) -> int:
    """Give how many rows, ``most`` at most, have outputs of a network that can be held at once."""
    sizes = dynamic_sizes((spec.shape for spec in network.signature.inputs), data)
    return rows_at_once(network.signature.outputs[place].shape, most, sizes)


def fixed_batch(signature: Signature) -> int | None:
    """Give the one batch size that a network takes, None where it takes any."""
    first = signature.inputs[0].shape[0]
    return first if isinstance(first, int) else None


def all_outputs(output: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (output,) if isinstance(output, torch.Tensor) else output


def first_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return all_outputs(output)[0]


def compute_logits(
    network: Network, data: Dataset, split: str, rows: NDArray[np.int64], device: torch.device
) -> torch.Tensor:
    """Run the network in the mode it stands in over rows of a split, (rows, …), without gradients."""
    return torch.cat([outputs for _, outputs in output_batches(network, data, split, rows, device)])


def output_batches(
    network: Network,
    data: Dataset,
    split: str,
    rows: NDArray[np.int64],
    device: torch.device,
    batch_rows: int = BATCH_ROWS,
    place: int = 0,
) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    """Give rows with one of the network's outputs for them, (rows, …), batch by batch.

    Where the batch is fixed, the last one is filled up with repeated rows that are dropped again; where it is not, and
    needs more memory than the device has, batches are cut in half.
    """
    if not len(rows):
        raise DatasetMismatch(f"the data set has no {split} rows, which this step needs")
    size = fixed_batch(network.signature) or held_at_once(network, data, batch_rows, place)
    start = 0
    while start < len(rows):
        picked = rows[start : start + size]
        asked = np.resize(picked, size) if fixed_batch(network.signature) else picked
        inputs, _ = data.gather(split, asked)
        try:
            with torch.no_grad():
                output = all_outputs(network.module(*(value.to(device) for value in inputs)))[place]
        except torch.OutOfMemoryError:
            if size == 1 or fixed_batch(network.signature):
                raise
            size = math.ceil(size / 2)
            continue
        yield picked, output[: len(picked)].float()
        start += len(picked)
