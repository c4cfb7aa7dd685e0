import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.compression.pruning.selection import Share, choose, line, partition


def test_the_first_go_first():
    assert choose([Share(np.array([6, 7, 5]), 2)], [])[0].tolist() == [6, 7]


@given(st.integers(1, 30), st.integers(0, 40), st.integers(1, 4), st.data())
def test_every_line_keeps_its_floor(size, count, floor, data):
    units = st.integers(0, size - 1)
    labels = [np.array(found) for found in data.draw(st.lists(st.lists(units, min_size=1), max_size=6))]
    chosen = choose([Share(np.arange(size), count)], [line(found, floor) for found in labels])[0]
    assert len(chosen) <= count
    assert all((~np.isin(found, chosen)).sum() >= min(floor, len(found)) for found in labels)


@pytest.mark.parametrize(
    ("count", "floor", "stays"), [(0, 1, 24), (3, 1, 24), (5, 1, 16), (15, 1, 8), (23, 1, 8), (15, 9, 16)]
)
def test_what_stays_is_a_multiple(count, floor, stays):
    units = np.arange(24)
    assert 24 - len(choose([Share(units, count, 8)], [line(units, floor)])[0]) == stays


def test_fewer_than_a_multiple_stay_whole():
    assert choose([Share(np.arange(7), 3, 8)], [])[0].tolist() == []


def test_units_are_parted_by_the_layers_that_they_run_through():
    members = [("a", np.array([1, 2, -1])), ("b", np.array([2]))]
    assert {names: units.tolist() for names, units in partition(np.array([1, 2]), members).items()} == {
        ("a",): [1],
        ("a", "b"): [2],
    }
