import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import NoSensitivity
from app.domain.sensitivity import GroupSensitivity, Measurement, SensitivityTable
from workers.compression.pruning.allocation import allocate, apportion, curve_of, curves_of

WHOLE = 0.9


def group(name, drops, size=100):
    """Make a group from drops by amount."""
    found = [
        Measurement(amount=amount, removed=round(amount * size), value=max(0, WHOLE - drop), drop=drop, loss=1.0)
        for amount, drop in drops.items()
    ]
    return GroupSensitivity(group=name, layers=(name,), size=size, measurements=tuple(found))


def table(*groups):
    return SensitivityTable(
        granularity="channel",
        criterion="l2",
        split="calibration",
        rows=1000,
        value=WHOLE,
        loss=0.5,
        complete=True,
        seconds=1.0,
        groups=groups,
        unmeasured=(),
    )


def curve(drops):
    found = group("a", drops)
    return curve_of(found, table(found))


def test_a_curve_runs_through_what_was_measured_and_noise_is_no_gain():
    found = curve({0.25: 0.1, 0.5: 0.08, 0.75: -0.01})
    # A row of the thousand for the whole group comes on top.
    assert [found.cost(amount) for amount in (0, 0.125, 0.25, 0.5, 0.75, 1)] == pytest.approx(
        [0, 0.050125, 0.10025, 0.1005, 0.10075, 0.901]
    )
    assert found.amount(found.cost(0.6)) == pytest.approx(0.6)


def test_the_order_of_measurements_does_not_matter():
    there, back = curve({0.1: 0.2, 0.5: 0.3}), curve({0.5: 0.3, 0.1: 0.2})
    assert [there.cost(amount) for amount in (0.05, 0.3, 0.8)] == [back.cost(amount) for amount in (0.05, 0.3, 0.8)]


def test_beyond_what_was_measured_all_of_the_metric_is_at_stake():
    assert curve({0.5: 0.0}).cost(0.75) == pytest.approx(0.45 + 0.00075)


def test_a_group_that_was_not_measured_is_as_bad_as_the_worst():
    known = curves_of(table(group("a", {0.5: 0.3}), group("b", {0.5: 0.0, 0.75: 0.8}), group("c", {})))
    for amount in np.linspace(0, 1, 9):
        worst = max(known["a",].cost(amount), known["b",].cost(amount))
        found = known["c",].cost(amount)
        assert found == pytest.approx(worst) if amount in {0, 0.5, 0.75, 1} else found >= worst - 1e-9
    with pytest.raises(NoSensitivity, match="no measurement"):
        curves_of(table(group("a", {})))


def test_groups_that_lose_nothing_go_by_equal_amounts():
    curves = [curve({0.5: 0.0}), curve({0.5: 0.0}), curve({0.5: 0.5})]
    amounts = allocate(curves, [10, 90, 50], [0.95] * 3, 0.2)
    assert amounts[0] == pytest.approx(amounts[1])
    assert amounts[2] < 0.01 < amounts[0]


DROPS = st.dictionaries(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.floats(-0.1, WHOLE), min_size=1)
GROUPS = st.lists(st.tuples(DROPS, st.integers(4, 4096), st.floats(0.3, 0.95)), min_size=1, max_size=6)


@settings(deadline=None)
@given(groups=GROUPS, share=st.floats(0.01, 0.95), other=st.randoms(use_true_random=False))
def test_the_share_is_met_and_no_other_way_has_a_smaller_highest_cost(groups, share, other):
    curves = [curve(drops) for drops, _, _ in groups]
    sizes, ceilings = [size for _, size, _ in groups], [ceiling for _, _, ceiling in groups]
    amounts = allocate(curves, sizes, ceilings, share)
    assert all(0 <= amount <= ceiling for amount, ceiling in zip(amounts, ceilings, strict=True))
    reachable = np.dot(ceilings, sizes) / sum(sizes)
    assert np.dot(amounts, sizes) / sum(sizes) == pytest.approx(min(share, reachable), abs=1e-6)
    highest = max(found.cost(amount) for found, amount in zip(curves, amounts, strict=True))
    # Move what one group gives to another: either that one is at its ceiling, or it costs more than all did.
    one, two = other.randrange(len(groups)), other.randrange(len(groups))
    moved = min(amounts[one] * sizes[one], (ceilings[two] - amounts[two]) * sizes[two])
    if one != two and moved > 1e-3 and amounts[one] < ceilings[one]:
        assert curves[two].cost(amounts[two] + moved / sizes[two]) >= highest - 1e-6


@settings(deadline=None)
@given(groups=GROUPS, share=st.floats(0.01, 0.95))
def test_whole_units_add_up_to_the_share(groups, share):
    curves = [curve(drops) for drops, _, _ in groups]
    sizes, ceilings = [size for _, size, _ in groups], [ceiling for _, _, ceiling in groups]
    amounts = allocate(curves, sizes, ceilings, share)
    counts = apportion(curves, sizes, ceilings, amounts)
    assert all(count <= ceiling * size + 1e-6 for count, ceiling, size in zip(counts, ceilings, sizes, strict=True))
    assert sum(counts) <= np.dot(amounts, sizes) + 0.501
    if all(amount * size < ceiling * size - 1 for amount, ceiling, size in zip(amounts, ceilings, sizes, strict=True)):
        assert sum(counts) == pytest.approx(np.dot(amounts, sizes), abs=0.501)


def test_what_rounding_leaves_goes_where_it_costs_least():
    curves = [curve({0.5: 0.8}), curve({0.5: 0.1})]
    # 0.9 of 4 and 39.6 of 80: the nearest whole numbers would take the one that costs four tenths.
    assert apportion(curves, [4, 80], [0.95, 0.95], [0.225, 0.495]) == [0, 40]
