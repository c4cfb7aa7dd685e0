"""How recipes are drawn from a space."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.auto_space import auto_space
from app.domain.sweep import (
    Draw,
    Interval,
    Scored,
    Space,
    choices_of,
    draw,
    draw_near,
    fill,
    range_faults,
    ranges_of,
)
from tests.factories import layer, model_facts

TEMPLATE = (
    {"method": "prune", "macs_ratio": {"low": 2.0, "high": 8.0, "log": True}},
    {"method": "distill", "epochs": {"low": 1, "high": 3}, "losses": {"kd": 1.0, "hint": {"choices": [0.5, 2.0]}}},
    {"method": "quantize", "exclude": [{"choices": ["conv1", "fc"]}]},
)


def test_a_template_is_filled_in_the_order_of_its_ranges():
    assert len(ranges_of(TEMPLATE)) == 4
    assert fill(TEMPLATE, (0.5, 0.0, 0.99, 0.2)) == [
        {"method": "prune", "macs_ratio": 4.0},
        {"method": "distill", "epochs": 1, "losses": {"kd": 1.0, "hint": 2.0}},
        {"method": "quantize", "exclude": ["conv1"]},
    ]


@given(st.floats(0, 1), st.integers(-50, 50), st.integers(1, 50))
def test_numbers_stay_within_their_ends(unit, low, length):
    whole = Interval(low=low, high=low + length).at(unit)
    assert isinstance(whole, int)
    assert low <= whole <= low + length
    assert 0.1 <= Interval(low=0.1, high=0.7, log=True).at(unit) <= 0.7


def test_each_whole_number_has_the_same_share():
    found = [Interval(low=1, high=4).at((place + 0.5) / 400) for place in range(400)]
    assert [found.count(value) for value in (1, 2, 3, 4)] == [100, 100, 100, 100]
    assert [Interval(low=1, high=4).at(unit) for unit in (0.0, 1.0)] == [1, 4]


@pytest.mark.parametrize(("space", "said"), [
    ({"recipes": []}, "at least 1"),
    ({"recipes": [[]]}, "at least 1"),
    ({"recipe": []}, "recipes"),
])  # fmt: skip
def test_what_is_no_space(space, said):
    with pytest.raises(ValidationError, match=said):
        Space.model_validate(space)


@pytest.mark.parametrize(("given", "pointer", "said"), [
    ({"low": 2, "high": 1}, "/0/amount", "low must be less"),
    ({"low": 0, "high": 1, "log": True}, "/0/amount", "log needs"),
    ({"low": 0, "high": 10**400}, "/0/amount/high", "1000000000000"),
    ({"low": 0.0, "high": 1.0, "step": 1}, "/0/amount/step", "Extra inputs"),
    ({"low": "a", "high": 1}, "/0/amount/low", "number"),
    ({"choices": []}, "/0/amount/choices", "at least 1"),
    ([{"choices": [1]}, {"choices": 1}], "/0/amount/1/choices", "valid"),
])  # fmt: skip
def test_what_is_no_range_is_pointed_at(given, pointer, said):
    faults = range_faults(({"method": "prune", "amount": given},))
    assert {fault.pointer for fault in faults} == {pointer}
    assert said in " ".join(fault.message for fault in faults)


def test_there_is_an_end_to_ranges_and_choices():
    for step in ({f"f{place}": {"choices": [1]} for place in range(33)}, {"f": {"choices": list(range(64))},
                  "g": {"choices": list(range(64))}, "h": {"choices": [1]}}):  # fmt: skip
        (fault,) = range_faults((step,))
        assert (fault.pointer, "32 ranges and 128 choices" in fault.message) == ("", True)


def test_every_choice_is_taken_once_beside_the_low_ends():
    template = ({"a": {"choices": [1, 2, 3]}, "b": {"low": 0.5, "high": 1.0}, "c": {"choices": ["x", "y"]}},)
    found = [fill(template, point)[0] for point in choices_of(template)]
    assert [(it["a"], it["b"], it["c"]) for it in found] == [(2, 0.5, "x"), (3, 0.5, "x"), (1, 0.5, "y")]


def test_draws_are_the_seeds_and_cover_the_space_in_turn():
    templates = (TEMPLATE, TEMPLATE[:1])
    drawn = [draw(templates, 7, number, 0) for number in range(64)]
    assert drawn == [draw(templates, 7, number, 0) for number in range(64)]
    assert drawn != [draw(templates, 8, number, 0) for number in range(64)]
    assert [it.template for it in drawn[:4]] == [0, 1, 0, 1]
    for count, mine in ((4, drawn[::2]), (1, drawn[1::2])):
        for place in range(count):
            quarters = [int(it.point[place] * 4) for it in mine]
            assert all(6 <= quarters.count(quarter) <= 10 for quarter in range(4)), quarters
    assert draw(templates, 7, 0, 1).point != drawn[0].point


def test_later_draws_stay_near_the_best():
    scored = [Scored(Draw(0, (place / 10, 0.5)), (0, float(place), 0)) for place in range(10)]
    drawn = [draw_near(scored, 0, number, 0) for number in range(200)]
    assert all(it.template == 0 and all(0 <= unit <= 1 for unit in it.point) for it in drawn)
    assert sum(it.point[0] < 0.5 for it in drawn) > 180, "three best lie at 0, 0.1 and 0.2"
    assert drawn == [draw_near(scored, 0, number, 0) for number in range(200)]
    parents = {scored[place].draw.point for place in range(3)}
    assert all(it.point not in parents for it in drawn)


@pytest.mark.parametrize(("minimize", "methods"), [
    ("latency", [["quantize"], ["quantize"], ["prune", "distill"], ["prune", "distill", "quantize"]]),
    ("size", [["quantize"], ["quantize"], ["quantize"], ["prune", "distill"], ["prune", "distill", "quantize"]]),
    ("macs", [["prune", "distill"], ["prune", "distill", "quantize"]]),
])  # fmt: skip
def test_auto_takes_what_can_make_a_model_less(minimize, methods):
    assert [[step["method"] for step in template] for template in auto_space(model_facts(), minimize)] == methods


def test_auto_leaves_out_what_the_model_has_no_place_for():
    stiff = model_facts(layers=[layer(prunable=False, quantizable=False)])
    assert [template[0].get("scheme") for template in auto_space(stiff, "latency")] == ["dynamic"]
    assert auto_space(model_facts(trainable=False), "macs") == ()
