"""A sweep: recipes whose fields have ranges, and how recipes are drawn from them.

The first half of the trials spreads evenly; the others stay near the best of those that have ended.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from app.domain.errors import FieldError
from app.domain.exact import Exact
from app.domain.faults import field_errors, pointer_to
from app.domain.job import PRINTABLE, Label, LabelKey, LatencySpec, Objective, TargetName
from app.domain.learning_task import LearningTask
from app.domain.recipe import MAX_STEPS

MOST_TRIALS = 500
MOST_RANGES = 32
MOST_CHOICES = 128
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
           107, 109, 113, 127, 131)  # fmt: skip
_REACH = 0.15
"""Standard deviation of a step away from a good trial, in the unit of a whole range."""
_MOVED = 0.5
"""Share of the ranges that such a step changes."""
_PARENTS = 3

SweepState = Literal["running", "cancelling", "succeeded", "failed", "cancelled"]
UNDERWAY: tuple[SweepState, ...] = ("running", "cancelling")


Number = Annotated[int, Field(ge=-1e12, le=1e12)] | Annotated[float, Field(ge=-1e12, le=1e12)]


class Choices(Exact):
    """One of several values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: Annotated[tuple[JsonValue, ...], Field(min_length=1, max_length=64)]

    def at(self, unit: float) -> JsonValue:
        return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]


class Interval(Exact):
    """A number from ``low`` to ``high``, both included, a whole one where both are; ``log``: by its logarithm."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: Number
    high: Number
    log: bool = False

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.log and self.low <= 0:
            raise ValueError("log needs a low above 0")
        return self

    def at(self, unit: float) -> float:
        if isinstance(self.low, int) and isinstance(self.high, int):
            # Each whole number has the same share, by its logarithm that from half below it to half above.
            whole = round(self._between(self.low - 0.5, self.high + 0.5, unit))
            return min(max(whole, self.low), self.high)
        # Four digits are more than a trial can tell apart, and make recipes that people can read.
        value = float(f"{self._between(self.low, self.high, unit):.4g}")
        return min(max(value, float(self.low)), float(self.high))

    def _between(self, low: float, high: float, unit: float) -> float:
        return math.exp(_mixed(math.log(low), math.log(high), unit)) if self.log else _mixed(low, high, unit)


def _mixed(low: float, high: float, unit: float) -> float:
    return low + (high - low) * unit


Range = Choices | Interval
Template = Annotated[tuple[dict[str, JsonValue], ...], Field(min_length=1, max_length=MAX_STEPS)]
Recipe = list[dict[str, Any]]


class Space(Exact):
    """Recipes in which any value may be a range: ``{"choices": […]}``, or ``{"low", "high", "log"}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipes: Annotated[tuple[Template, ...], Field(min_length=1, max_length=8)]


class SweepObjective(Objective):
    """What the user accepts to lose, and what is to be as small as possible within that."""

    minimize: Literal["latency", "size", "macs"] = Field(
        "latency", description="Of the compressed file: median latency where it is measured first, bytes, or MACs."
    )


def _kind(given: Any) -> str:
    return "auto" if isinstance(given, str) else "recipes"


class Budget(Exact):
    """When a sweep ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(20, ge=1, le=MOST_TRIALS, description="Jobs, at most.")
    seconds: int | None = Field(
        None, ge=1, le=30 * 24 * 3600, description="From the start of the first job; then those underway are cancelled."
    )


class SweepSpec(Exact):
    """The body of ``POST /sweeps``. What a job takes as well means what it means there, for every trial."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(max_length=200, pattern=PRINTABLE)] = ""
    model_id: str
    dataset_id: str
    objective: SweepObjective
    space: Annotated[
        Annotated[Literal["auto"], Tag("auto")] | Annotated[Space, Tag("recipes")], Discriminator(_kind)
    ] = Field("auto", description="Recipes with ranges; auto: what makes sense for the model and what is minimized.")
    budget: Budget = Budget()
    parallel: int = Field(2, ge=1, le=64, description="Jobs that are queued or run at a time.")
    task: LearningTask | None = None
    target: TargetName = "onnxruntime-cpu"
    latency: LatencySpec = LatencySpec()
    queue: Literal["auto", "cpu", "gpu"] = "auto"
    priority: int = Field(5, ge=0, le=9, description="9 is served first.")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of each job, and of what is drawn.")
    time_limit_seconds: int = Field(3600, ge=1, le=7 * 24 * 3600, description="For each job.")
    labels: Annotated[dict[LabelKey, Label], Field(max_length=32)] = Field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """Where a trial lies: its template, and a number from 0 to 1 for each range of that."""

    template: int
    point: tuple[float, ...]


@dataclass(frozen=True)
class Scored:
    """A trial that has ended, and how good it was: less is better."""

    draw: Draw
    score: tuple[float, ...]


def ranges_of(template: Sequence[Mapping[str, Any]]) -> list[Range]:
    """List the ranges of a template in the order in which they stand."""
    return [found for _, given in _places(list(template), ()) if (found := _as_range(given)) is not None]


def range_faults(template: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """List what is wrong with the ranges of a template, each with its pointer within that."""
    found, ranges, choices = list[FieldError](), 0, 0
    for steps, given in _places(list(template), ()):
        try:
            read = _as_range(given)
        except ValidationError as error:
            found += field_errors(error.errors(include_url=False), given, pointer_to(steps))
        else:
            ranges += read is not None
            choices += len(read.choices) if isinstance(read, Choices) else 0
    if ranges > MOST_RANGES or choices > MOST_CHOICES:
        text = f"A recipe can have {MOST_RANGES} ranges and {MOST_CHOICES} choices; this has {ranges} and {choices}."
        found.append(FieldError(pointer="", message=text))
    return found


def choices_of(template: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, ...]]:
    """Give points that between them take every choice of a template once; what is no choice stays at its low end."""
    ranges = ranges_of(template)
    for place, found in enumerate(ranges):
        count = len(found.choices) if isinstance(found, Choices) else 0
        for choice in range(1, count):
            yield tuple((choice + 0.5) / count if at == place else 0.0 for at in range(len(ranges)))


def fill(template: Sequence[Mapping[str, Any]], point: Sequence[float]) -> Recipe:
    """Give the recipe that a template is at a point, a number from 0 to 1 for each of its ranges."""
    units = iter(point)
    return [_filled(step, units) for step in template]


def draw(templates: Sequence[Sequence[Mapping[str, Any]]], seed: int, number: int, attempt: int) -> Draw:
    """Give a trial that with those before it covers the space evenly, the templates in turn.

    Points are those of Halton's sequence, moved by a shift of the seed's (Cranley & Patterson 1976).
    """
    template = number % len(templates)
    # A step that leaves the last digit to every base alone: each attempt goes on where the one before it left off.
    place = number // len(templates) + 1 + attempt * math.prod(_PRIMES)
    count = len(ranges_of(templates[template]))
    shifts = random.Random(f"{seed}:{template}")  # noqa: S311 - a seed makes it repeatable, and nothing is secret
    point = tuple((_radical_inverse(place, prime) + shifts.random()) % 1 for prime in _PRIMES[:count])
    return Draw(template, point)


def draw_near(scored: Sequence[Scored], seed: int, number: int, attempt: int) -> Draw:
    """Give a trial near one of the best."""
    generator = random.Random(f"{seed}:{number}:{attempt}")  # noqa: S311
    parent = generator.choice(sorted(scored, key=lambda it: it.score)[:_PARENTS]).draw
    moved = [generator.random() < _MOVED for _ in parent.point]
    if moved and not any(moved):
        moved[generator.randrange(len(moved))] = True
    point = tuple(
        _reflected(generator.gauss(unit, _REACH)) if moves else unit
        for unit, moves in zip(parent.point, moved, strict=True)
    )
    return Draw(parent.template, point)


def _radical_inverse(number: int, base: int) -> float:
    """Mirror the digits of a number at the point (Halton 1960)."""
    found, share = 0.0, 1.0
    while number:
        share /= base
        number, digit = divmod(number, base)
        found += share * digit
    return found


def _reflected(unit: float) -> float:
    """Bring back into 0 to 1 what stepped over an end."""
    unit = abs(unit) % 2
    return 2 - unit if unit > 1 else unit


def _places(value: Any, steps: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Give every object that looks like a range, and where it stands."""
    if _is_range(value):
        yield steps, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _places(part, (*steps, name))
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from _places(part, (*steps, place))


def _is_range(value: Any) -> bool:
    return isinstance(value, Mapping) and (value.keys() == {"choices"} or {"low", "high"} <= value.keys())


def _as_range(value: Any) -> Range | None:
    if not _is_range(value):
        return None
    return Choices.model_validate(value) if "choices" in value else Interval.model_validate(value)


def _filled(value: Any, units: Iterator[float]) -> Any:
    found = _as_range(value)
    if found is not None:
        return found.at(next(units))
    if isinstance(value, Mapping):
        return {name: _filled(part, units) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(part, units) for part in value]
    return value
