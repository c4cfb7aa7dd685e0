"""Shares of rows that are right, with the interval and the test that rows which are hits or not have of their own."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

# All of scipy.stats would take a second to import, in every job.
from scipy.special import bdtr

from app.domain.report import ClassFigures, MetricDrop, MetricValue
from workers.compression.resampling import CONFIDENCE, SAMPLES, interval


def hit_rate(hits: int, rows: int) -> MetricValue:
    """Give the share of rows whose highest logit is the label, with the 95 % interval of Wilson 1927."""
    return MetricValue(value=hits / rows, ci95=wilson_interval(hits, rows), samples=rows)


def wilson_interval(hits: int, rows: int) -> tuple[float, float]:
    """Give where the share behind ``hits`` of ``rows`` lies, (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)."""
    z, share = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), hits / rows
    centre = share + z**2 / (2 * rows)
    reach = z * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    whole = 1 + z**2 / rows
    return max(0.0, (centre - reach) / whole), min(1.0, (centre + reach) / whole)


def mcnemar_p_value(lost: int, gained: int) -> float:
    """Give the two-sided p-value of McNemar's exact test: that of as few heads in ``lost + gained`` fair throws."""
    return min(1.0, 2 * float(bdtr(min(lost, gained), lost + gained, 0.5)))


def measure_drop(before: NDArray[np.bool_], after: NDArray[np.bool_], seed: int) -> MetricDrop:
    """Give how much accuracy is lost from hits before to hits after, row by row.

    The p-value is that of McNemar's exact test, the binomial test on rows that only one side has right.
    The interval holds the middle 95 % of a paired bootstrap (Efron 1979): as each row's difference is
    1, 0 or −1, drawing rows anew is drawing how often each of the three comes up.
    """
    rows = len(before)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    shares = [lost / rows, gained / rows, 1 - (lost + gained) / rows]
    draws = np.random.default_rng(seed).multinomial(rows, shares, SAMPLES)
    return MetricDrop(
        value=(lost - gained) / rows,
        ci95=interval((draws[:, 0] - draws[:, 1]) / rows),
        p_value=mcnemar_p_value(lost, gained),
    )


def by_class(
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    labels: NDArray[np.int64],
    names: Sequence[str] | None = None,
) -> tuple[ClassFigures, ...]:
    """Give the shares within each class that stands in the labels, of rows, tokens or pixels."""
    counts = np.bincount(labels)
    right = [np.bincount(labels, weights=hits) for hits in (before, after)]
    return tuple(
        ClassFigures(
            class_=int(label),
            name=None if names is None else names[int(label)],
            samples=int(counts[label]),
            baseline=float(right[0][label] / counts[label]),
            compressed=float(right[1][label] / counts[label]),
        )
        for label in np.flatnonzero(counts)
    )
