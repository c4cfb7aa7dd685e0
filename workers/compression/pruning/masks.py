"""Which weights become zero: pure functions of scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def wanda(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """``|W_ij|·‖X_j‖₂`` of a weight [outputs, inputs]; ``norms`` are of the inputs over all rows (Sun et al. 2023)."""
    return weight.abs() * norms


def lowest(scores: Sequence[torch.Tensor], amount: float) -> list[torch.Tensor]:
    """Mark the ``amount`` of all entries that score lowest, those of one tensor compared with those of the others.

    The highest of each tensor stays, so that none is emptied: where it is among the lowest, the next goes instead.
    """
    flat = torch.cat([part.flatten() for part in scores])
    order = flat.argsort(stable=True)
    sizes = [part.numel() for part in scores]
    kept = torch.zeros(len(flat), dtype=torch.bool)
    start = 0
    for part, size in zip(scores, sizes, strict=True):
        kept[start + int(part.flatten().argmax())] = True
        start += size
    gone = torch.zeros(len(flat), dtype=torch.bool)
    gone[order[~kept[order]][: round(amount * len(flat))]] = True
    return [piece.view(part.shape) for piece, part in zip(gone.split(sizes), scores, strict=True)]


def lowest_of_rows(scores: torch.Tensor, amount: float) -> torch.Tensor:
    """Mark the ``amount`` of each row [rows, entries] that scores lowest."""
    order = scores.argsort(dim=1, stable=True)[:, : round(amount * scores.shape[1])]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, value=True)


def all_but(scores: torch.Tensor, keep: int, block: int, axis: int) -> torch.Tensor:
    """Mark all but the ``keep`` highest of every ``block`` in a row along ``axis``, whose size it divides."""
    moved = scores.movedim(axis, -1)
    rows = moved.reshape(-1, block)
    return lowest_of_rows(rows, (block - keep) / block).view(moved.shape).movedim(-1, axis)
