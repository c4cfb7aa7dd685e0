"""The bootstrap (Efron 1979) of figures that are made of sums over rows, all of them from the same draws."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
SAMPLES = 10_000
EXACT_ROWS = 1000
"""With more rows than this, how often each was drawn is taken to be independent of the others."""
_CHUNK_CELLS = 4_000_000
# P(X < k) of a Poisson variable of mean 1 for k = 1, 2, …, in 256ths: its variance comes out as 0.996 of its mean.
_THRESHOLDS = tuple(round(256 * sum(math.exp(-1) / math.factorial(i) for i in range(k))) for k in range(1, 6))

Weights = NDArray[np.float32]
Draws = NDArray[np.float64]


def draw(rows: int, seed: int) -> Iterator[Weights]:
    """Give how often each row is drawn, (rows, samples), for ``SAMPLES`` samples in parts.

    Up to ``EXACT_ROWS`` rows each sample has as many draws as there are rows. With more, each row is drawn as often as
    a Poisson variable of mean 1 says (Hanley and MacGibbon 2006), which a byte of chance is enough for; figures divide
    by the draws there are, so that their number, which then varies, does not matter.
    """
    generator = np.random.Generator(np.random.SFC64(seed))
    size = max(1, min(SAMPLES, _CHUNK_CELLS // rows))
    for start in range(0, SAMPLES, size):
        count = min(size, SAMPLES - start)
        if rows <= EXACT_ROWS:
            drawn = generator.integers(rows, size=(rows, count)) * count + np.arange(count)
            yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float32)
        else:
            chance = np.frombuffer(generator.bytes(rows * count), np.uint8)
            times = np.zeros(rows * count, np.uint8)
            for threshold in _THRESHOLDS:
                times += chance >= threshold
            yield times.reshape(rows, count).astype(np.float32)


def resample(
    rows: int, seed: int, columns: Mapping[str, Any], combine: Callable[[str, NDArray[Any]], NDArray[Any]],
    pairs: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> dict[str, Draws]:  # fmt: skip
    """Give what ``combine`` makes of each name's sums in every sample, (samples,).

    ``columns`` hold by name what rows add, (sums, rows), dense or sparse. Where a name has ``pairs``, they hold what
    pairs of rows add, and a pair counts as often as both of its rows together.
    """
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
    dense = {name: part for name, part in columns.items() if isinstance(part, np.ndarray) and name not in pairs}
    stacked = np.concatenate(list(dense.values())) if dense else np.zeros((0, rows), np.float32)
    ends = np.cumsum([len(part) for part in dense.values()])
    # Few rows are drawn for many samples at once, and each may add to many sums or stand in many pairs.
    most = max(sum(part.shape[0] for part in columns.values()), *(len(first) for first, _ in pairs.values()), 1)
    for weights in _pieces(draw(rows, seed), max(1, _CHUNK_CELLS // most)):
        # Both sides have the same pairs, which are dear to weigh.
        weighed: dict[int, Weights] = {}
        sums = dict(zip(dense, np.split(stacked @ weights, ends[:-1]), strict=True)) if dense else {}
        for name, part in columns.items():
            if name in pairs:
                first, second = pairs[name]
                if id(first) not in weighed:
                    weighed[id(first)] = weights[first] * weights[second]
                sums[name] = part @ weighed[id(first)]
            elif name not in dense:
                sums[name] = part @ weights
            found[name].append(combine(name, sums[name].astype(np.float64)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _pieces(drawn: Iterator[Weights], samples: int) -> Iterator[Weights]:
    """Cut draws into pieces of so many samples."""
    for weights in drawn:
        for start in range(0, weights.shape[1], samples):
            yield weights[:, start : start + samples]


def interval(values: Draws) -> tuple[float, float]:
    """Give where the middle 95 % of samples lie."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def p_value(differences: Draws) -> float:
    """Give twice the share of samples on the rarer side of no difference (Efron and Tibshirani 1993, section 15.4).

    One is added to what was counted and to all, as no share of so many samples can be told to be 0.
    """
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))
