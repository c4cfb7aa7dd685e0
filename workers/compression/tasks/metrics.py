"""Figures as sums over rows, so that one matrix product judges ten thousand samples of the same rows.

A figure is told by what each row adds to its sums, and by what is made of those: it is computed once over all rows for
the value, and with each row counted as often as it was drawn for the interval, by one and the same formula.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]
Terms = Any
"""What rows add, (rows, sums): an array, or a sparse one of scipy's where most of it is zero."""

BINS = 15
_COUNTED = 1 << 20
_DENSE = 128
"""Up to so many columns a product with all zeros is faster than one that leaves them out."""


@dataclass(frozen=True)
class Figure:
    """``terms`` gives what rows add from outputs and labels; ``combine`` makes figures of sums, (sums, …) to (…)."""

    terms: Callable[[NDArray[Any], NDArray[Any]], Terms]
    combine: Callable[[Values], Values]
    more_is_better: bool = True

    def value(self, terms: Terms) -> float:
        """Give the figure of rows that count once each."""
        return float(self.combine(np.asarray(terms.sum(axis=0), dtype=np.float64)))


def quotient(sums: Values) -> Values:
    """Give the first sum over the last: a mean."""
    return sums[0] / np.maximum(sums[-1], 1e-12)


def of_rows(values: NDArray[Any]) -> Terms:
    """Give the terms of a mean over rows."""
    return np.stack([values, np.ones(len(values))], axis=1).astype(np.float64)


def by_row(terms: Terms, rows: NDArray[np.int64], count: int) -> Terms:
    """Add up the terms of positions by the row that each is in; ``rows`` never fall."""
    if isinstance(terms, np.ndarray):
        ends = np.searchsorted(rows, np.arange(count + 1))
        added = [terms[begin:end].sum(axis=0) for begin, end in pairwise(ends)]
        return np.stack(added) if added else np.zeros((0, terms.shape[1]))
    from scipy.sparse import csr_array

    places = np.arange(len(rows))
    return csr_array((np.ones(len(rows)), (rows, places)), shape=(count, len(rows))) @ terms


def join(parts: Sequence[Terms]) -> Terms:
    """Put the terms of batches of rows behind each other."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    from scipy.sparse import vstack

    return vstack(parts, format="csr")


def count_classes(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Count each class, a few labels at a time: numpy makes eight bytes of each that it counts."""
    counts = np.zeros(classes, np.int64)
    for start in range(0, len(labels), _COUNTED):
        counts += np.bincount(labels[start : start + _COUNTED], minlength=classes)
    return counts


def compact(values: NDArray[Any]) -> NDArray[Any]:
    """Give whole numbers in the fewest bytes that hold them: there may be one for each pixel of a data set."""
    if values.dtype.kind not in "iu" or not values.size:
        return values
    return values.astype(np.result_type(*(np.min_scalar_type(int(end)) for end in (values.min(), values.max()))))


def narrow(terms: Terms) -> tuple[Terms, NDArray[np.int32]]:
    """Give terms as columns in float32, (sums, rows), each divided by the power of two that brings it below 1.

    Squares of numbers beyond 1e19 are none in float32, and those of numbers below 1e-23 are zero.
    """
    if not isinstance(terms, np.ndarray):
        return terms.T.astype(np.float32), np.zeros(terms.shape[1], np.int32)
    powers = np.frexp(np.abs(terms).max(axis=0))[1]
    return np.ldexp(terms, -powers).T.astype(np.float32), powers


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def hits(logits: NDArray[Any], labels: NDArray[Any]) -> Terms:
    return of_rows(logits.argmax(axis=-1) == labels)


def hits_among(count: int) -> Callable[[NDArray[Any], NDArray[Any]], Terms]:
    """Count a row where fewer than ``count`` classes have a higher logit than the label's."""

    def terms(logits: NDArray[Any], labels: NDArray[Any]) -> Terms:
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        return of_rows((logits > own).sum(axis=1) < count)

    return terms


def surprise(logits: NDArray[Any], labels: NDArray[Any]) -> Terms:
    """Give −log p of the label, in nats."""
    return of_rows(-np.take_along_axis(log_softmax(logits), labels[:, None], axis=1)[:, 0])


def perplexity(sums: Values) -> Values:
    """Give exp of the mean surprise (Jelinek et al. 1977)."""
    return np.exp(quotient(sums))


def miscalibration(logits: NDArray[Any], labels: NDArray[Any]) -> Terms:
    """Give confidence minus hit, in the column of the bin that the confidence falls into."""
    chances = np.exp(log_softmax(logits).max(axis=1))
    missed = chances - (logits.argmax(axis=1) == labels)
    terms = np.zeros((len(labels), BINS + 1))
    # Bins are open below: ((m − 1)/M, m/M].
    bins = np.clip(np.ceil(chances * BINS).astype(int) - 1, 0, BINS - 1)
    terms[np.arange(len(labels)), bins] = missed
    terms[:, BINS] = 1
    return terms


def calibration_error(sums: Values) -> Values:
    """Give Σ_m |B_m|/n · |acc(B_m) − conf(B_m)| over 15 bins (Guo et al. 2017, eq. 3)."""
    return np.abs(sums[:-1]).sum(axis=0) / np.maximum(sums[-1], 1e-12)


def confusions(logits: NDArray[Any], labels: NDArray[Any]) -> Terms:
    """Give for each class whether a row is of it and taken for it, is taken for it, and is of it."""
    classes, places, chosen = logits.shape[1], np.arange(len(labels)), logits.argmax(axis=1)
    right = places[chosen == labels]
    rows = np.concatenate([right, places, places])
    columns = np.concatenate([labels[right], classes + chosen, 2 * classes + labels]).astype(np.int64)
    if 3 * classes <= _DENSE:
        terms = np.zeros((len(labels), 3 * classes))
        terms[rows, columns] = 1
        return terms
    # Half a second to import, which only networks of many classes need.
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(labels), 3 * classes))


def confusions_of_labels(logits: NDArray[Any], labels: NDArray[Any]) -> Terms:
    """Give the same for labels of which a row may have several: those with a logit above 0 are chosen."""
    chosen, given = logits > 0, labels > 0
    return np.concatenate([chosen & given, chosen, given], axis=1).astype(np.float64)


def macro_f1(sums: Values) -> Values:
    """Give the mean over classes of 2·TP/(chosen + given); a class that is neither chosen nor given does not count."""
    right, chosen, given = np.split(sums, 3)
    there = chosen + given > 0
    each = np.where(there, 2 * right / np.maximum(chosen + given, 1e-12), 0.0)
    return each.sum(axis=0) / np.maximum(there.sum(axis=0), 1)


def mean_iou(sums: Values) -> Values:
    """Give the mean over classes of TP / (chosen + given − TP); one that is neither chosen nor given does not count.

    Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge": counted over all rows together.
    """
    right, chosen, given = np.split(sums, 3)
    either = chosen + given - right
    each = np.where(either > 0, right / np.maximum(either, 1e-12), 0.0)
    return each.sum(axis=0) / np.maximum((either > 0).sum(axis=0), 1)


def micro_f1(sums: Values) -> Values:
    """Give 2·ΣTP/(Σchosen + Σgiven) over all classes."""
    right, chosen, given = (part.sum(axis=0) for part in np.split(sums, 3))
    return 2 * right / np.maximum(chosen + given, 1e-12)


def all_right(logits: NDArray[Any], labels: NDArray[Any]) -> Terms:
    return of_rows(((logits > 0) == (labels > 0)).all(axis=1))


def squares(outputs: NDArray[Any], truth: NDArray[Any]) -> Terms:
    """Give (y − ŷ)², y and y² of each output, and 1 for the row."""
    flat, wanted = (values.reshape(len(values), -1).astype(np.float64) for values in (outputs, truth))
    return np.concatenate([np.square(wanted - flat), wanted, np.square(wanted), np.ones((len(flat), 1))], axis=1)


def r2(sums: Values) -> Values:
    """Give 1 − Σ(y − ŷ)²/Σ(y − ȳ)², the mean over outputs; one that is the same in every row does not count."""
    wrong, spread, there = _spread(sums)
    each = np.where(there, 1 - wrong / np.where(there, spread, 1), 0.0)
    return each.sum(axis=0) / np.maximum(there.sum(axis=0), 1)


def varies(sums: Values) -> bool:
    """Tell whether any output's labels differ between rows, without which r2 is 0 whatever the outputs are."""
    return bool(_spread(sums)[2].any())


def _spread(sums: Values) -> tuple[Values, Values, NDArray[np.bool_]]:
    """Give Σ(y − ŷ)² and Σ(y − ȳ)² of each output, and whether the latter is more than rounding."""
    (wrong, once, twice), rows = np.split(sums[:-1], 3), sums[-1]
    spread = twice - np.square(once) / np.maximum(rows, 1e-12)
    return wrong, spread, spread > 1e-13 * twice


def errors(power: int) -> Callable[[NDArray[Any], NDArray[Any]], Terms]:
    """Give the mean over a row's outputs of |ŷ − y| to a power."""

    def terms(outputs: NDArray[Any], truth: NDArray[Any]) -> Terms:
        apart = np.abs(outputs.astype(np.float64) - truth) ** power
        return of_rows(apart.reshape(len(apart), -1).mean(axis=1))

    return terms


def cosines(outputs: NDArray[Any], truth: NDArray[Any]) -> Terms:
    ours, theirs = (unit(values) for values in (outputs, truth))
    return of_rows((ours * theirs).sum(axis=1))


def unit(values: NDArray[Any]) -> NDArray[np.float64]:
    """Give each row as one vector of length 1; a row of zeros stays one."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def ranks(ours: NDArray[Any], theirs: NDArray[Any]) -> Terms:
    """Give the moments of two samples' ranks, centred so that no digits are lost, the mean rank where values tie."""
    a, b = (_rank(values) - (len(values) + 1) / 2 for values in (ours, theirs))
    scale = max(len(a), 1)
    a, b = a / scale, b / scale
    return np.stack([a, b, a * a, b * b, a * b, np.ones(len(a))], axis=1)


def _rank(values: NDArray[Any]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def correlation(sums: Values) -> Values:
    """Give Pearson's correlation from moments; of ranks it is Spearman's (1904). Without any spread it is 0."""
    a, b, aa, bb, ab, count = sums
    count = np.maximum(count, 1e-12)
    shared, first, second = ab - a * b / count, aa - a * a / count, bb - b * b / count
    spread = np.sqrt(np.maximum(first, 0) * np.maximum(second, 0))
    return np.where(spread > 1e-12, shared / np.where(spread > 1e-12, spread, 1), 0.0)
