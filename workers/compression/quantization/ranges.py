"""Ranges of activations: what passes is kept as a histogram, from which each observer takes its range."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

BINS = 2048
"""Bins on either side of zero."""
GRID = 40
"""Shares of an extreme that are tried as the end of a range: 1/40, 2/40, …, 1."""
MOST_VALUES = 2**18
"""Of a larger tensor, as many evenly spaced values go into the histogram; its extremes are always exact."""
LEVELS = 255
MIDDLE = 128
SMALLEST_SCALE = 2.0**-24

Floats = NDArray[np.float64]
Range = tuple[float, float]


@dataclass
class Histogram:
    """Values that passed, in bins that lie evenly on both sides of zero.

    A bin stands for the mean of its values, so that exact zeros stay zeros. What grows out of the bins doubles
    their width: each new one is then two old ones, and nothing is interpolated.
    """

    low: float = float("inf")
    high: float = float("-inf")
    reach: float = 0.0
    finite: bool = True
    counts: Floats = field(default_factory=lambda: np.zeros(2 * BINS))
    sums: Floats = field(default_factory=lambda: np.zeros(2 * BINS))

    def observe(self, values: torch.Tensor) -> None:
        """Take in the values of one batch; NaN and infinite ones only clear ``finite``."""
        low, high = (float(extreme) for extreme in torch.aminmax(values))
        if not np.isfinite([low, high]).all():
            self.finite = False
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(-self.low, self.high))
        flat = values.detach().flatten()
        picked = flat[:: -(-len(flat) // MOST_VALUES)].double().numpy()
        places = np.zeros(len(picked), np.int64)
        if self.reach > 0:
            places = np.floor(picked * (BINS / self.reach)).astype(np.int64)
        places = np.clip(places + BINS, 0, 2 * BINS - 1)
        self.counts += np.bincount(places, minlength=2 * BINS)
        self.sums += np.bincount(places, weights=picked, minlength=2 * BINS)

    @property
    def constant(self) -> bool:
        return not self.high > self.low

    def values(self) -> tuple[Floats, Floats]:
        """Give the mean of each bin that holds something, in rising order, and how many values it holds."""
        held = self.counts > 0
        return self.sums[held] / self.counts[held], self.counts[held]

    def _grow(self, reach: float) -> None:
        if self.reach == 0:
            # All that came before was zero and lies in the bin above it.
            self.reach = reach
        while self.reach < reach:
            self.reach *= 2
            self.counts, self.sums = (_join(bins) for bins in (self.counts, self.sums))


def _join(bins: Floats) -> Floats:
    joined = np.zeros_like(bins)
    joined[BINS // 2 : BINS // 2 + BINS] = bins.reshape(-1, 2).sum(axis=1)
    return joined


@dataclass(frozen=True)
class Choice:
    """How a range is chosen: the observer's name and what it needs to know."""

    observer: str
    percentile: float = 99.99
    symmetric: bool = False

    def range(self, seen: Histogram) -> Range:
        """Give the range for what was seen; the encoding adds zero where it lies outside."""
        low, high = OBSERVERS[self.observer](seen, self)
        if self.symmetric:
            high = max(-low, high)
            low = -high
        return low, high

    def parameters(self, seen: Histogram) -> tuple[float, int]:
        """Give scale and zero point for what was seen."""
        return encode(*self.range(seen), symmetric=self.symmetric)


def encode(low: float, high: float, *, symmetric: bool) -> tuple[float, int]:
    """Give scale and zero point of uint8 for a range, in the precision that files keep them in.

    q = clamp(round(x/s) + z, 0, 255) with s = (high − low)/255 and z = −round(low/s), zero being in the range;
    symmetric: s = max|x|/127 and z = 128.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    step = max(-low, high) / (MIDDLE - 1) if symmetric else (high - low) / LEVELS
    scale = np.float32(max(step, SMALLEST_SCALE))
    if not symmetric and scale * np.float32(LEVELS) > np.float32(high - low) and step > SMALLEST_SCALE:
        # One ulp too far, and ONNX Runtime no longer sees that the bytes end where a clipping activation does.
        scale = np.nextafter(scale, np.float32(0))
    return float(scale), MIDDLE if symmetric else int(np.clip(-np.round(low / float(scale)), 0, LEVELS))


def _extremes(seen: Histogram, _: Choice) -> Range:
    return seen.low, seen.high


def _percentile(seen: Histogram, choice: Choice) -> Range:
    """Cut the same share off both tails."""
    values, counts = seen.values()
    below = np.cumsum(counts)
    tail = (1 - choice.percentile / 100) / 2 * below[-1]
    low = values[np.searchsorted(below, tail, side="right")]
    high = values[min(np.searchsorted(below, below[-1] - tail, side="left"), len(values) - 1)]
    # A bin's mean lies inside of what was seen: without tails to cut, the extremes are the range.
    return (float(low), float(high)) if tail >= 1 else (seen.low, seen.high)


def _expected_error(seen: Histogram, choice: Choice) -> Range:
    """Take the range of the least expected error: s²/12 for each value within, and what is cut off of those without.

    A value of exactly zero has no error at all (Sung 2015 searches one end likewise).
    """
    values, counts = seen.values()
    if choice.symmetric:
        values = np.abs(values)
    inexact = counts * (values != 0)
    lows, highs = _ends(seen, choice)
    clipped_below = np.array([(counts * np.square(np.minimum(values - low, 0))).sum() for low in lows])
    clipped_above = np.array([(counts * np.square(np.maximum(values - high, 0))).sum() for high in highs])
    under = np.array([inexact[values < low].sum() for low in lows])
    over = np.array([inexact[values > high].sum() for high in highs])
    steps = (highs[None, :] - lows[:, None]) / (MIDDLE - 1 if choice.symmetric else LEVELS)
    within = inexact.sum() - under[:, None] - over[None, :]
    errors = within * np.square(steps) / 12 + clipped_below[:, None] + clipped_above[None, :]
    return _pick(errors, lows, highs)


def _measured_error(seen: Histogram, choice: Choice) -> Range:
    """Take the range with the least Σ(x̂ − x)², each value really quantized (Choukroun 2019)."""
    values, counts = seen.values()
    lows, highs = _ends(seen, choice)
    errors = np.empty((len(lows), len(highs)))
    for row, low in enumerate(lows):
        for column, high in enumerate(highs):
            scale, zero = encode(float(low), float(high), symmetric=choice.symmetric)
            rounded = np.clip(np.round(values / scale) + zero, 0, LEVELS)
            errors[row, column] = (counts * np.square((rounded - zero) * scale - values)).sum()
    return _pick(errors, lows, highs)


def _ends(seen: Histogram, choice: Choice) -> tuple[Floats, Floats]:
    """List the lower and upper ends to try: zero is always inside, and a side that nothing lies on has one."""
    shares = np.arange(1, GRID + 1) / GRID
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if choice.symmetric:
        # One number says how far both go.
        return np.array([0.0]), shares * max(-low, high)
    return shares * low if low else np.zeros(1), shares * high if high else np.zeros(1)


def _pick(errors: Floats, lows: Floats, highs: Floats) -> Range:
    row, column = np.unravel_index(int(errors.argmin()), errors.shape)
    return float(lows[row]), float(highs[column])


OBSERVERS: dict[str, Callable[[Histogram, Choice], Range]] = {
    "minmax": _extremes,
    "percentile": _percentile,
    "histogram": _expected_error,
    "mse": _measured_error,
}
