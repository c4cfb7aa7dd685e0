"""Packed weights against a reference that is slow and plain."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from workers.compression.quantization.groups import (
    SHRINKINGS,
    dequantize_groups,
    find_ranges,
    pack,
    quantize_groups,
    unpack,
)

F32 = np.float32
BITS = st.sampled_from([4, 8])
GROUP = st.sampled_from([32, 64, 128])
WEIGHTS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 150)),
    elements=st.one_of(st.floats(-8, 8, width=32), st.sampled_from([0.0, 1.0, -1.0, 0.5, -7.5, 100.0])),
)
QUICK = settings(max_examples=40, deadline=None)


def half_even(value):
    """Round as IEEE 754 does by default."""
    floor = math.floor(value)
    rest = value - floor
    if rest != 0.5:
        return floor + (rest > 0.5)
    return floor + floor % 2


def slow_range(group, bits, symmetric):
    """Give scale and zero point of the whole range of one group."""
    low, high = F32(min(group)), F32(max(group))
    if symmetric:
        extreme = high if high > -low else low
        scale = extreme / F32(-(2 ** (bits - 1)))
        return (scale if abs(scale) >= np.finfo(F32).tiny else F32(1)), 2 ** (bits - 1)
    low, high = min(low, F32(0)), max(high, F32(0))
    scale = (high - low) / F32(2**bits - 1)
    scale = scale if scale >= np.finfo(F32).tiny else F32(1)
    return scale, min(max(half_even(float(-low / scale)), 0), 2**bits - 1)


def slow_integer(value, scale, zero_point, bits):
    return min(max(half_even(float(F32(value) / F32(scale))) + int(zero_point), 0), 2**bits - 1)


def cut(row, group_size):
    padded = [*row, *([F32(0)] * (-len(row) % group_size))]
    return [padded[start : start + group_size] for start in range(0, len(padded), group_size)]


def error(group, scale, zero_point, bits):
    restored = [(slow_integer(v, scale, zero_point, bits) - int(zero_point)) * float(scale) for v in group]
    return sum((float(v) - r) ** 2 for v, r in zip(group, restored, strict=True))


@QUICK
@given(WEIGHTS, BITS, GROUP, st.booleans())
def test_integers_are_those_of_the_reference(weight, bits, group_size, symmetric):
    groups = quantize_groups(torch.from_numpy(weight), bits, group_size, symmetric=symmetric)
    beyond = 0
    for row, integers, scales, shifts in zip(
        weight, groups.integers.tolist(), groups.scales.numpy(), groups.zero_points.tolist(), strict=True
    ):
        for part, found, scale, shift in zip(cut(row, group_size), integers, scales, shifts, strict=True):
            assert found == [slow_integer(value, scale, shift, bits) for value in part]
            free = [half_even(float(F32(value) / scale)) + shift for value in part]
            beyond += sum(not 0 <= value < 2**bits for value in free)
    assert groups.saturated == beyond / weight.size


@QUICK
@given(WEIGHTS, BITS, GROUP, st.booleans())
def test_ranges_begin_at_the_whole_one_and_only_ever_improve(weight, bits, group_size, symmetric):
    ranges = find_ranges(torch.from_numpy(weight), bits, group_size, symmetric=symmetric)
    for row, scales, shifts, shares in zip(
        weight, ranges.scales.numpy(), ranges.zero_points.tolist(), ranges.shares.tolist(), strict=True
    ):
        for part, scale, shift, share in zip(cut(row, group_size), scales, shifts, shares, strict=True):
            whole = slow_range(part, bits, symmetric)
            assert share in SHRINKINGS
            if share == 1:
                assert (scale, shift) == whole
            # The search compares sums in float32.
            limit = error(part, *whole, bits)
            assert error(part, scale, shift, bits) <= limit * (1 + 1e-4) + 1e-9
            assert not symmetric or shift == 2 ** (bits - 1)


@QUICK
@given(WEIGHTS, BITS, GROUP, st.booleans())
def test_what_comes_back_has_its_shape_and_is_near(weight, bits, group_size, symmetric):
    groups = quantize_groups(torch.from_numpy(weight), bits, group_size, symmetric=symmetric)
    restored = dequantize_groups(groups.integers, groups.scales, groups.zero_points, weight.shape[1])
    assert restored.shape == weight.shape
    step = groups.scales.abs().repeat_interleave(group_size, 1)[:, : weight.shape[1]]
    inside = ~torch.isin(
        groups.integers.flatten(1)[:, : weight.shape[1]].int(), torch.tensor([0, 2**bits - 1], dtype=torch.int32)
    )
    difference = (restored - torch.from_numpy(weight)).abs()
    assert bool((difference <= 0.5001 * step + 1e-6)[inside].all())


@QUICK
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=st.integers(0, 15)))
def test_two_integers_share_a_byte_the_first_in_its_low_half(integers):
    packed = pack(torch.from_numpy(integers), 4).numpy()
    for row, found in zip(integers.tolist(), packed.tolist(), strict=True):
        even = [*row, *([0] * (len(row) % 2))]
        assert found == [low + 16 * high for low, high in zip(even[::2], even[1::2], strict=True)]
    back = unpack(torch.from_numpy(packed), 4).numpy()
    np.testing.assert_array_equal(back[:, : integers.shape[1]], integers)


def test_halves_round_to_even_and_what_lies_beyond_saturates():
    # One group whose largest weight, −8, gives the scale 1.
    weight = torch.tensor([[-8.0, 0.5, 1.5, 2.5, -0.5, -1.5, 6.5, 7.4, 7.9, *([0.0] * 23)]])
    ranges = find_ranges(weight, 4, 32, symmetric=True)
    assert ranges.scales.item() == 1
    groups = quantize_groups(weight, 4, 32, symmetric=True)
    assert (groups.integers[0, 0, :9].int() - 8).tolist() == [-8, 0, 2, 2, 0, -2, 6, 7, 7]
    assert groups.saturated == 1 / 32


def test_a_group_of_zeros_stays_zero():
    for symmetric in (True, False):
        groups = quantize_groups(torch.zeros(2, 40), 4, 32, symmetric=symmetric)
        assert not dequantize_groups(groups.integers, groups.scales, groups.zero_points, 40).any()
