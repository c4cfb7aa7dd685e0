"""The accuracy gate: layers go back to float, worst first, until quantization loses no more than is allowed.

The search knows nothing of how a choice of layers is tried: it is given a function from the names of the layers left
in float to the logits on fixed rows, and serves every scheme that leaves layers in float.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.compression.evaluation import Logits, value_of, within
from workers.compression.tasks import Classification, Task

Choice = frozenset[str]


@dataclass
class Judge:
    """Tries choices of layers on fixed rows, each at most once, and counts the tries.

    Where there are no ``labels``, those are taken for them that the reference gives: of accuracy the drop is then the
    share of rows on which the decision changes, and it cannot drop by more. ``metric`` is the task's own where none is
    given.
    """

    reference: Logits
    labels: NDArray[Any] | None
    run: Callable[[Choice], Logits]
    budget: int
    task: Task = field(default_factory=Classification)
    metric: str | None = None
    tried: dict[Choice, tuple[float, float]] = field(default_factory=dict)

    @property
    def spent(self) -> bool:
        return len(self.tried) >= self.budget

    def drop(self, floats: Choice) -> float:
        """Give how much of the metric is lost."""
        return self._try(floats)[0]

    def error(self, floats: Choice) -> float:
        """Give Σ(ŷ − y)² / Σ(y − ȳ)² of the logits, which tells layers apart where decisions do not change yet."""
        return self._try(floats)[1]

    def _try(self, floats: Choice) -> tuple[float, float]:
        if floats not in self.tried:
            logits = self.run(floats)
            drop = self._value(self.reference) - self._value(logits)
            spread = float(np.square(self.reference - self.reference.mean(axis=0)).sum())
            error = float(np.square(logits - self.reference).sum()) / max(spread, 1e-12)
            self.tried[floats] = drop, error
        return self.tried[floats]

    def _value(self, outputs: Logits) -> float:
        labels = self.task.decide(self.reference) if self.labels is None else self.labels
        return value_of(self.task, self.metric or self.task.metric, outputs, labels)


@dataclass(frozen=True)
class Outcome:
    """The choice kept; ``ranking`` names every layer with what it loses alone, the worst first."""

    floats: Choice
    held: bool
    complete: bool
    """Whether putting back each layer that is left in float was tried and lost too much."""
    drop: float
    drop_of_all: float
    ranking: tuple[dict[str, Any], ...]
    evaluations: int

    def __str__(self) -> str:
        left = f"{len(self.floats)} layers stay in float" if self.floats else "Every layer is quantized"
        verdict = "within the objective" if self.held else "more than the objective allows"
        return f"{left}: the drop is {self.drop:.4f}, {verdict}, after {self.evaluations} choices tried."

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"floats": sorted(self.floats), "ranking": list(self.ranking)}


def hold(judge: Judge, layers: Sequence[str], costs: Mapping[str, float], allowed: float) -> Outcome:
    """Find the layers to leave in float, so that the drop is within what is allowed.

    ``layers`` come with the ones first that are likely to lose most; ``costs`` say what each costs in float, in any
    unit. Two thirds of the budget rank the first layers by what they lose as the only integer one.
    """
    whole = frozenset[str]()
    first = judge.drop(whole)
    if within(first, allowed):
        return Outcome(whole, held=True, complete=True, drop=first, drop_of_all=first, ranking=(), evaluations=1)
    ranking = _rank(judge, layers, costs)
    order = [str(entry["name"]) for entry in ranking]
    found = _shortest(judge, order, allowed)
    complete = False
    if found is None:
        found = min(judge.tried, key=lambda floats: (judge.tried[floats][0], sum(costs[name] for name in floats)))
        # The one that leaves nothing quantized is none of the results.
        found = found if len(found) < len(layers) else whole
        held = False
    else:
        found, complete = _cheapest(judge, found, costs, allowed)
        held = True
    return Outcome(found, held, complete, judge.drop(found), first, tuple(ranking), len(judge.tried))


def _rank(judge: Judge, layers: Sequence[str], costs: Mapping[str, float]) -> list[dict[str, Any]]:
    """Measure what layers lose alone; those that the budget does not reach stay behind in the order given."""
    everything = frozenset(layers)
    reach = (judge.budget - 1) * 2 // 3
    measured: list[dict[str, Any]] = []
    for name in layers[:reach]:
        alone = everything - {name}
        measured.append(
            {"name": name, "error_alone": judge.error(alone), "drop_alone": judge.drop(alone), "cost": costs[name]}
        )
    measured.sort(key=lambda entry: -entry["error_alone"])
    rest: list[dict[str, Any]] = [
        {"name": name, "error_alone": None, "drop_alone": None, "cost": costs[name]} for name in layers[reach:]
    ]
    return measured + rest


def _shortest(judge: Judge, order: list[str], allowed: float) -> Choice | None:
    """Give the fewest of the worst layers that are enough: doubled until they are, then halved in between."""

    def holds(count: int) -> bool:
        return within(judge.drop(frozenset(order[:count])), allowed)

    # One layer at least must stay an integer one.
    low, high, most = 0, 1, len(order) - 1
    while not judge.spent and high <= most and not holds(high):
        low, high = high, min(2 * high, most) if high < most else most + 1
    if high > most or frozenset(order[:high]) not in judge.tried or not holds(high):
        return None
    while high - low > 1 and not judge.spent:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return frozenset(order[:high])


def _put_back(judge: Judge, floats: Choice, costs: Mapping[str, float], allowed: float) -> tuple[Choice, bool]:
    """Quantize again whatever can be, the costliest first; tell whether the budget lasted for each.

    What loses too much once does so with fewer layers in float as well, and is not tried again.
    """
    for name in sorted(floats, key=lambda name: (-costs[name], name)):
        fewer = floats - {name}
        if judge.spent and fewer not in judge.tried:
            return floats, False
        if within(judge.drop(fewer), allowed):
            floats = fewer
    return floats, True


def _cheapest(judge: Judge, floats: Choice, costs: Mapping[str, float], allowed: float) -> tuple[Choice, bool]:
    """Put back what can be, then try, while the budget lasts, single layers and exchanges that cost less."""
    floats, complete = _put_back(judge, floats, costs, allowed)
    while (cheaper := _first_cheaper(judge, floats, costs, allowed)) is not None:
        floats, complete = _put_back(judge, cheaper, costs, allowed)
    return floats, complete


def _first_cheaper(judge: Judge, floats: Choice, costs: Mapping[str, float], allowed: float) -> Choice | None:
    rising = sorted(costs, key=lambda name: (costs[name], name))
    choices = [frozenset({name}) for name in rising]
    choices += [floats - {old} | {new} for old in reversed(rising) if old in floats for new in rising]
    most = sum(costs[name] for name in floats)
    for choice in choices:
        if sum(costs[name] for name in choice) >= most:
            continue
        if judge.spent and choice not in judge.tried:
            return None
        if within(judge.drop(choice), allowed):
            return choice
    return None
