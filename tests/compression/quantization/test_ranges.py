"""Each observer against a slow reference that sees the values themselves."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workers.compression.quantization.ranges import BINS, GRID, SMALLEST_SCALE, Choice, Histogram, encode
from workers.compression.quantization.scales import round_weight, weight_scales
from workers.compression.quantization.simulation import round_activation

exact = settings(deadline=None, max_examples=25, derandomize=True)
numbers = st.floats(-1000, 1000, width=32).map(lambda value: 0.0 if abs(value) < 1e-3 else value)
batches = st.lists(arrays(np.float32, st.integers(1, 40), elements=numbers), min_size=1, max_size=4)


def seen(parts):
    histogram = Histogram()
    for part in parts:
        histogram.observe(torch.from_numpy(np.asarray(part, np.float32)))
    return histogram


def bin_width(parts):
    """A range that grows doubles, so that a bin is at most twice an even share of the largest value."""
    return 2 * max(float(np.abs(part).max()) for part in parts) / BINS


def slow_encode(low, high, symmetric):
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return max(max(-low, high) / 127, SMALLEST_SCALE), 128
    scale = max((high - low) / 255, SMALLEST_SCALE)
    return scale, min(255, max(0, -half_to_even(low / float(np.float32(scale)))))


def half_to_even(value):
    """Python's own round does so."""
    return round(value)


def slow_round(value, scale, zero):
    q = min(255, max(0, half_to_even(value / scale) + zero))
    return (q - zero) * scale


def slow_error(values, low, high, symmetric):
    scale, zero = slow_encode(low, high, symmetric)
    return sum((slow_round(float(value), scale, zero) - float(value)) ** 2 for value in values)


@exact
@given(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32), st.booleans())
def test_scale_and_zero_point_are_those_of_the_formula(a, b, symmetric):
    scale, zero = encode(min(a, b), max(a, b), symmetric=symmetric)
    expected = slow_encode(min(a, b), max(a, b), symmetric)
    assert math.isclose(scale, expected[0], rel_tol=1e-6)
    assert zero == expected[1]
    assert (0 - zero + zero) * scale == 0, "zero is represented exactly"


@exact
@given(batches)
def test_minmax_takes_the_extremes(parts):
    values = np.concatenate(parts)
    assert Choice("minmax").range(seen(parts)) == (values.min(), values.max())
    bound = float(np.abs(values).max())
    assert Choice("minmax", symmetric=True).range(seen(parts)) == (-bound, bound)


@exact
@given(batches)
def test_a_histogram_loses_no_value_as_it_grows(parts):
    values = np.sort(np.concatenate(parts).astype(np.float64))
    means, counts = seen(parts).values()
    assert counts.sum() == len(values)
    assert math.isclose((means * counts).sum(), values.sum(), rel_tol=1e-9, abs_tol=1e-6)
    assert np.abs(np.repeat(means, counts.astype(int)) - values).max() <= bin_width(parts) + 1e-9


@exact
@given(batches, st.sampled_from([60.0, 80.0, 95.0, 99.0]))
def test_percentile_cuts_the_same_share_off_both_tails(parts, percentile):
    values = sorted(np.concatenate(parts).astype(np.float64))
    tail = (1 - percentile / 100) / 2 * len(values)
    low, high = Choice("percentile", percentile).range(seen(parts))
    if tail < 1:
        assert (low, high) == (values[0], values[-1])
        return
    # The smallest value that more than the tail lies at or below, and the largest likewise from above.
    expected_low = next(v for place, v in enumerate(values, 1) if place > tail + 1e-9)
    expected_high = next(v for place, v in enumerate(values, 1) if place >= len(values) - tail - 1e-9)
    width = bin_width(parts) + 1e-9
    assert abs(low - expected_low) <= width
    assert abs(high - expected_high) <= width


@exact
@given(batches, st.booleans())
def test_mse_finds_a_range_as_good_as_the_best_of_the_grid(parts, symmetric):
    values = np.concatenate(parts)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    shares = np.arange(4, GRID + 1, 4) / GRID
    if symmetric:
        pairs = [(-share * max(-low, high), share * max(-low, high)) for share in shares]
    else:
        pairs = [(a * low, b * high) for a in shares for b in shares]
    best = min(slow_error(values, *pair, symmetric) for pair in pairs)
    found = slow_error(values, *Choice("mse", symmetric=symmetric).range(seen(parts)), symmetric)
    # The search sees means of bins: each value is off by a bin's width at most.
    slack = bin_width(parts)
    assert math.sqrt(found) <= math.sqrt(best) + 2 * slack * math.sqrt(len(values)) + 1e-6


@exact
@given(batches, st.booleans())
def test_histogram_weighs_steps_against_what_is_cut_off(parts, symmetric):
    values = np.concatenate(parts).astype(np.float64)
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)

    def expected_error(low, high):
        step = max(-low, high) / 127 if symmetric else (high - low) / 255
        cut = sum(max(low - v, v - high, 0.0) ** 2 for v in values)
        return step**2 / 12 * sum(low <= v <= high and v != 0 for v in values) + cut

    shares = np.arange(1, GRID + 1) / GRID
    if symmetric:
        bound = max(-low, high)
        best = min(expected_error(-share * bound, share * bound) for share in shares)
    else:
        best = min(expected_error(a * low, b * high) for a in shares[::3] for b in shares[::3])
    found = expected_error(*Choice("histogram", symmetric=symmetric).range(seen(parts)))
    slack = bin_width(parts) * math.sqrt(len(values))
    # A bin may lie on the other side of an end than its values; then a step's error stands for nothing cut off.
    step = (high - low) / 127
    assert math.sqrt(found) <= math.sqrt(best) + 2 * slack + step * math.sqrt(len(values) / 12) * 0.25 + 1e-6


def test_outliers_are_cut_off_where_that_is_less_than_coarser_steps():
    usual = [np.random.default_rng(seed).normal(0, 1, 100_000) for seed in range(10)]
    histogram = seen([*usual, [60.0]])
    ends = {name: Choice(name).range(histogram)[1] for name in ("minmax", "percentile", "histogram", "mse")}
    assert ends["minmax"] == 60
    assert 3.5 < ends["percentile"] < 4.5
    assert ends["histogram"] < 30
    assert ends["mse"] < 30


@exact
@given(arrays(np.float32, 30, elements=numbers), st.floats(2**-10, 10, width=32), st.integers(0, 255))
def test_activations_round_halves_to_even_and_saturate(values, scale, zero):
    # Multiples of half a step are the cases that tell.
    values = np.concatenate([values, (np.arange(-12, 12) * np.float32(0.5)).astype(np.float32) * np.float32(scale)])
    found = round_activation(torch.from_numpy(values), float(scale), zero).numpy()
    steps = values.astype(np.float64) * (1 / np.float64(np.float32(scale)))
    for value, step, result in zip(values, steps, found, strict=True):
        expected = slow_round(float(value), float(scale), zero)
        near_half = abs(abs(step) % 1 - 0.5) < 1e-4
        assert abs(result - expected) <= (scale * 1.001 if near_half else scale * 1e-3)


def test_exact_halves_go_to_the_even_neighbour():
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 300.0, -300.0])
    assert round_activation(halves, 1.0, 100).tolist() == [-2, -2, 0, 0, 2, 2, 155, -100]


@exact
@given(arrays(np.float32, (5, 3, 2), elements=numbers), st.sampled_from([7, 63, 64, 127]))
def test_weights_have_one_scale_an_output_channel(weight, bound):
    scales = weight_scales(torch.from_numpy(weight), bound)
    rounded = round_weight(torch.from_numpy(weight), scales, bound).numpy()
    for channel, scale in enumerate(scales.tolist()):
        assert math.isclose(scale, max(float(np.abs(weight[channel]).max()) / bound, SMALLEST_SCALE), rel_tol=1e-6)
        assert np.abs(rounded[channel] - weight[channel]).max() <= scale * 0.5001
        assert np.abs(rounded[channel] / scale).max() <= bound + 1e-3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_remembered(value):
    histogram = seen([[1.0, 2.0]])
    assert histogram.finite
    histogram.observe(torch.tensor([value]))
    assert not histogram.finite


def test_a_value_that_never_changes_is_constant():
    assert seen([[2.0, 2.0], [2.0]]).constant
    assert not seen([[2.0], [2.5]]).constant
