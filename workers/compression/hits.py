"""Shares of rows that are right, with the interval and the test that rows which are hits or not have of their own."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

# All of scipy.stats would take a second to import, in every job.
from scipy.special import bdtr, betaincinv

from app.domain.report import ClassFigures, MetricDrop, MetricValue
from workers.compression.resampling import CONFIDENCE
from workers.compression.tasks.metrics import count_classes


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


def newcombe_interval(both: int, lost: int, gained: int, neither: int) -> tuple[float, float]:
    """Give the interval of a difference of paired shares (Newcombe 1998, Statistics in Medicine 17:2635, method 10).

    Wilson's limits of both shares, squared and added with the correlation between them, whose continuity correction
    leaves the interval a width where no row changed.
    """
    rows = both + lost + gained + neither
    hits = (both + lost, both + gained)
    (first, second), limits = (count / rows for count in hits), [wilson_interval(count, rows) for count in hits]
    product = both * neither - lost * gained
    spread = math.sqrt(hits[0] * (rows - hits[0]) * hits[1] * (rows - hits[1]))
    correlation = (max(product - rows / 2, 0) if product > 0 else product) / spread if spread else 0.0

    def reach(ours: float, theirs: float) -> float:
        return math.sqrt(max(0.0, ours**2 - 2 * correlation * ours * theirs + theirs**2))

    difference = first - second
    return (
        difference - reach(first - limits[0][0], limits[1][1] - second),
        difference + reach(limits[0][1] - first, second - limits[1][0]),
    )


def exact_interval(lost: int, gained: int, rows: int) -> tuple[float, float]:
    """Give the differences that McNemar's exact test leaves, the rows that changed being as many as they are.

    With L and U, Clopper and Pearson's limits (1934) of the share of the lost among them, (2L − 1, 2U − 1) · changed/n.
    """
    tail, changed = (1 - CONFIDENCE) / 2, (lost + gained) / rows
    low = float(betaincinv(lost, gained + 1, tail)) if lost else 0.0
    high = float(betaincinv(lost + 1, gained, 1 - tail)) if gained else 1.0
    return (2 * low - 1) * changed, (2 * high - 1) * changed


def measure_drop(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> MetricDrop:
    """Give how much accuracy is lost from hits before to hits after, row by row.

    The p-value is that of McNemar's exact test, the binomial test on rows that only one side has right.
    The interval is the wider, at each end, of Newcombe's and of the exact one: the first alone leaves out 0 where the
    test still allows it, the second alone forgets that the number of rows that changed is chance too.
    """
    rows = len(before)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    both = int((before & after).sum())
    ends = (newcombe_interval(both, lost, gained, rows - both - lost - gained), exact_interval(lost, gained, rows))
    return MetricDrop(
        value=(lost - gained) / rows,
        ci95=(min(low for low, _ in ends), max(high for _, high in ends)),
        p_value=mcnemar_p_value(lost, gained),
    )


def by_class(
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    labels: NDArray[Any],
    names: Sequence[str] | None = None,
) -> tuple[ClassFigures, ...]:
    """Give the shares within each class that stands in the labels, of rows, tokens or pixels."""
    classes = int(labels.max()) + 1
    counts = count_classes(labels, classes)
    right = [count_classes(labels[hits], classes) for hits in (before, after)]
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
