"""How much a channel matters: pure functions of weights, gradients and scales."""

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


def taylor(filters: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """``|Σ w·∂L/∂w|`` of each filter; both are [filters, weights] (Molchanov et al. 2019, who square it)."""
    return (filters * gradients).sum(dim=1).abs()


def bn_scale(scales: torch.Tensor) -> torch.Tensor:
    """``|γ|`` of each channel of a batch norm (Liu et al. 2017)."""
    return scales.abs()


def random(count: int, seed: int) -> Scores:
    """Draw a score from [0, 1) for each of ``count`` units: what any other criterion has to beat."""
    return np.random.default_rng(seed).random(count)


MAGNITUDES = {"l1": l1, "l2": l2}


def as_filters(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Lay a weight out as [filters, weights] in double precision; ``axis`` counts its filters."""
    flat = weight.detach().movedim(axis, 0).flatten(1) if weight.dim() > 1 else weight.detach().view(-1, 1)
    return flat.double()


def relative(scores: torch.Tensor) -> Scores:
    """Divide the scores of a layer by their mean, so that layers compare."""
    values: Scores = scores.double().cpu().numpy()
    mean = values.mean()
    return values / mean if mean > 0 else values


def pooled(labels: NDArray[np.int64], scores: Scores) -> tuple[NDArray[np.int64], Scores]:
    """Average the scores of each unit within one tensor."""
    units, places = np.unique(labels, return_inverse=True)
    return units, np.bincount(places, weights=scores) / np.bincount(places)


def score_units(units: NDArray[np.int64], members: Iterable[tuple[NDArray[np.int64], Scores]]) -> Scores:
    """Score a unit as the mean of its members; ``members`` are, tensor by tensor, units and their scores."""
    total, count = np.zeros(len(units)), np.zeros(len(units))
    for labels, scores in members:
        mine = np.isin(labels, units)
        places = np.searchsorted(units, labels[mine])
        np.add.at(total, places, scores[mine])
        np.add.at(count, places, 1)
    return total / count
