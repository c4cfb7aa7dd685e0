"""Figures and names the way people read them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from app.domain.learning_task import LearningTask

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""What no XML may hold, or what makes a line read otherwise than it is written."""
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
NONE = "–"
DECIDED = {
    LearningTask.MULTILABEL: "labels",
    LearningTask.TOKEN_CLASSIFICATION: "tokens",
    LearningTask.LANGUAGE_MODELLING: "tokens",
    LearningTask.SEGMENTATION: "pixels",
}
"""What is decided, where that is not one a row."""
UNDECIDED = frozenset({LearningTask.REGRESSION, LearningTask.EMBEDDING})
"""Tasks whose outputs decide nothing: they are near each other or not."""


def clean(text: str) -> str:
    """Put a mark in place of each character that is none to be read."""
    return _CONTROL.sub("\ufffd", text)


def shorten(text: str, most: int) -> str:
    """Leave out the beginning of a long name: layers differ by their ends."""
    text = clean(text)
    return text if len(text) <= most else f"…{text[1 - most :]}"


def size(count: float | None) -> str:
    if count is None:
        return NONE
    power = min(int(math.log10(max(count, 1)) / 3), len(_UNITS) - 1)
    return f"{count / 1000**power:.{2 if power else 0}f} {_UNITS[power]}"


def whole(number: float) -> str:
    return f"{number:,.0f}"


def milliseconds(value: float) -> str:
    return f"{significant(value)} ms"


def significant(value: float) -> str:
    """Three digits, never in powers of ten."""
    if not math.isfinite(value):
        return NONE
    if not value:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def metric(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 100 else significant(value)


def chance(p_value: float) -> str:
    return f"p = {p_value:.3f}" if p_value >= 0.0005 else "p < 0.001"


def interval(bounds: tuple[float, float], digits: int = 4) -> str:
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def title(name: str) -> str:
    """Make words of a field's name."""
    words = clean(name).replace("_", " ")
    return words[:1].upper() + words[1:]


def setting(value: Any) -> str:
    """Give a field of a spec as text."""
    match value:
        case None:
            return NONE
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ", ".join(setting(item) for item in value) or NONE
        case dict():
            return ", ".join(f"{clean(str(key))}: {setting(item)}" for key, item in value.items()) or NONE
        case _:
            return clean(str(value))


def alike(task: LearningTask, agreement: float, rows: int) -> str:
    """Say how far both files agree, in what the task decides, if anything."""
    if task in UNDECIDED:
        return f"their outputs are {share(agreement)} alike (1 − ‖a − b‖ / ‖a‖) over {whole(rows)} validation rows"
    decided = DECIDED.get(task, "rows")
    within = f"{whole(rows)} validation rows" if decided == "rows" else f"{decided} of {whole(rows)} validation rows"
    return f"they decide {share(agreement)} of the {within} alike"


def shapes(timed_rows: Mapping[str, Sequence[int]]) -> str:
    """Give the shape of a row of each input."""
    return ", ".join(
        f"{clean(name)} {' × '.join(map(str, shape)) or 'one number'}" for name, shape in timed_rows.items()
    )


def threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"
