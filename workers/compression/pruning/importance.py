"""How much a channel matters: pure functions of weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def l1(filters: torch.Tensor) -> torch.Tensor:
    """``mean(|w_i|)`` of each filter; ``filters`` is [filters, weights] (Li et al. 2017)."""
    return filters.abs().mean(dim=1)


def l2(filters: torch.Tensor) -> torch.Tensor:
    """``sqrt(mean(w_i²))`` of each filter; ``filters`` is [filters, weights]."""
    return filters.square().mean(dim=1).sqrt()


CRITERIA = {"l1": l1, "l2": l2}


def score_filters(weight: torch.Tensor, axis: int, criterion: str) -> Scores:
    """Score each index of ``axis``, relative to the mean of its layer, so that layers compare."""
    filters = weight.detach().movedim(axis, 0).flatten(1) if weight.dim() > 1 else weight.detach().view(-1, 1)
    scores = CRITERIA[criterion](filters.double()).numpy()
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


def score_units(units: NDArray[np.int64], members: Iterable[tuple[NDArray[np.int64], Scores]]) -> Scores:
    """Score a unit as the mean of its members; ``members`` are, layer by layer, the units and scores of filters."""
    total, count = np.zeros(len(units)), np.zeros(len(units))
    for labels, scores in members:
        mine = np.isin(labels, units)
        places = np.searchsorted(units, labels[mine])
        np.add.at(total, places, scores[mine])
        np.add.at(count, places, 1)
    return total / count
