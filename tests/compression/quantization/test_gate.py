"""The search over layers on a network that is only numbers, so that the best answer is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.compression.quantization.gate import Judge, hold

ROWS = 1000


def make_judge(losses, budget=200, labels=True, noise=None):
    """Quantizing a layer turns as many rows wrong as ``losses`` says; the rows of no two layers are the same.

    ``noise`` of a layer moves the logits and no decision.
    """
    reference = np.tile(np.array([1.0, 0.0], np.float32), (ROWS, 1))
    starts = dict(zip(losses, itertools.accumulate([0, *losses.values()]), strict=False))

    def run(floats):
        logits = reference.copy()
        for name, lost in losses.items():
            if name not in floats:
                logits[starts[name] : starts[name] + lost] = (0.0, 1.0)
                logits[-1, 0] += (noise or {}).get(name, 0.0) * np.sqrt(ROWS)
        return logits

    return Judge(reference, np.zeros(ROWS, np.int64) if labels else None, run, budget)


def cost(losses):
    return dict.fromkeys(losses, 1.0)


def test_nothing_goes_back_where_the_objective_holds_anyway():
    judge = make_judge({"a": 5, "b": 0})
    outcome = hold(judge, ["a", "b"], cost("ab"), 0.005)
    assert (outcome.floats, outcome.held, outcome.evaluations) == (frozenset(), True, 1)
    assert str(outcome) == (
        "Every layer is quantized: the drop is 0.0050, within the objective, after 1 choices tried."
    )  # fmt: skip


@pytest.mark.parametrize("labels", [True, False])
def test_the_worst_layer_alone_goes_back(labels):
    losses = {"a": 3, "b": 40, "c": 2, "d": 0}
    outcome = hold(make_judge(losses, labels=labels), list(losses), cost(losses), 0.006)
    assert outcome.floats == {"b"}
    assert outcome.held
    assert outcome.complete
    assert (outcome.drop_of_all, outcome.drop) == (pytest.approx(0.045), pytest.approx(0.005))
    assert [entry["name"] for entry in outcome.ranking] == ["b", "a", "c", "d"]
    assert [entry["drop_alone"] for entry in outcome.ranking] == pytest.approx([0.04, 0.003, 0.002, 0])


def test_a_layer_whose_error_changes_no_decision_is_put_back():
    losses = {"noisy": 0, "b": 40, "c": 1}
    judge = make_judge(losses, noise={"noisy": 9.0})
    outcome = hold(judge, list(losses), cost(losses), 0.002)
    assert [entry["name"] for entry in outcome.ranking] == ["noisy", "b", "c"]
    assert frozenset({"noisy", "b"}) in judge.tried, "the worst by error went back first"
    assert outcome.floats == {"b"}


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.integers(0, 60), min_size=2, max_size=8), st.integers(0, 60))
def test_no_layer_is_left_in_float_that_need_not_be(lost, allowed):
    losses = {f"layer{place}": count for place, count in enumerate(lost)}
    judge = make_judge(losses)
    outcome = hold(judge, list(losses), cost(losses), allowed / ROWS)
    remaining = sum(count for name, count in losses.items() if name not in outcome.floats)
    assert outcome.drop == pytest.approx(remaining / ROWS)
    if outcome.held:
        assert remaining <= allowed
        assert outcome.complete
        for name in outcome.floats:
            assert remaining + losses[name] > allowed, f"{name} could be an integer"
    else:
        assert min(losses.values()) > allowed, "one layer at least can be an integer"


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8])
def test_the_budget_is_kept_and_the_best_found_comes_out(budget):
    losses = {name: 10 + place for place, name in enumerate("abcdefgh")}
    judge = make_judge(losses, budget)
    outcome = hold(judge, list(losses), cost(losses), 0.011)
    assert outcome.evaluations == len(judge.tried) <= budget
    assert len(outcome.floats) < len(losses)
    assert not outcome.held or outcome.drop <= 0.011
    assert outcome.drop <= outcome.drop_of_all


def test_layers_beyond_the_budget_keep_the_order_they_came_in():
    losses = {"a": 1, "b": 30, "c": 2, "d": 3, "e": 4}
    outcome = hold(make_judge(losses, budget=4), list(losses), cost(losses), 0.02)
    assert [entry["name"] for entry in outcome.ranking] == ["b", "a", "c", "d", "e"]
    assert outcome.ranking[-1]["error_alone"] is None
    assert outcome.held
    assert outcome.floats == {"b"}


def test_a_cheaper_layer_that_is_enough_takes_the_place_of_a_dear_one():
    losses = {"a": 40, "b": 38, "c": 1, "d": 1}
    costs = {"a": 90.0, "b": 5.0, "c": 1.0, "d": 1.0}
    outcome = hold(make_judge(losses), list(losses), costs, 0.045)
    assert (outcome.floats, outcome.held, outcome.complete) == ({"b"}, True, True)
    tight = hold(make_judge(losses, budget=4), list(losses), costs, 0.045)
    assert tight.evaluations <= 4


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=2, max_size=7), st.integers(0, 60))
def test_no_single_layer_in_float_would_be_cheaper(layers, allowed):
    losses = {f"layer{place}": lost for place, (lost, _) in enumerate(layers)}
    costs = {f"layer{place}": float(price) for place, (_, price) in enumerate(layers)}
    outcome = hold(make_judge(losses), list(losses), costs, allowed / ROWS)
    if not outcome.held:
        return
    paid = sum(costs[name] for name in outcome.floats)
    enough = [costs[name] for name in losses if sum(losses.values()) - losses[name] <= allowed]
    assert not enough or paid <= min(enough)
