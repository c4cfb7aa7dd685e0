"""Outputs of a network in torch over rows of a data set."""

import numpy as np
import torch
from numpy.typing import NDArray

from app.domain.errors import DatasetMismatch
from app.domain.model import Signature
from workers.compression.datasets import Dataset
from workers.compression.network import Network

BATCH_ROWS = 256


def fixed_batch(signature: Signature) -> int | None:
    """Give the one batch size that a network takes, None where it takes any."""
    first = signature.inputs[0].shape[0]
    return first if isinstance(first, int) else None


def all_outputs(output: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (output,) if isinstance(output, torch.Tensor) else output


def first_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return all_outputs(output)[0]


def compute_logits(
    network: Network, data: Dataset, split: str, rows: NDArray[np.int64], device: torch.device, place: int = 0
) -> torch.Tensor:
    """Run the network in the mode it stands in over rows of a split, without gradients; give one of its outputs.

    Where the batch is fixed, the last one is filled up with repeated rows that are dropped again.
    """
    if not len(rows):
        raise DatasetMismatch(f"the data set has no {split} rows, which this step needs")
    size = fixed_batch(network.signature) or BATCH_ROWS
    pieces = []
    with torch.no_grad():
        for start in range(0, len(rows), size):
            picked = rows[start : start + size]
            asked = np.resize(picked, size) if fixed_batch(network.signature) else picked
            inputs, _ = data.gather(split, asked)
            output = all_outputs(network.module(*(value.to(device) for value in inputs)))[place]
            pieces.append(output[: len(picked)].float())
    return torch.cat(pieces)
