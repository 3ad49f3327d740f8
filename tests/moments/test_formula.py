"""Merging has the bits of its formula on NumPy arrays, whatever the numbers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfast._moments import GradientSums, Moments


def two_sum(a, b):
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def merged_values(a, b):
    """What follows the count in a + b, where no count is 0."""
    if isinstance(a, GradientSums):
        return a.sum_dy + b.sum_dy, a.sum_dy_xmu + b.sum_dy_xmu
    count, swap = a.count + b.count, b.count > a.count
    more = np.where(swap, b.count, a.count)
    one, two = (a.mean, a.mean_low), (b.mean, b.mean_low)
    (mean, low), (less_mean, less_low) = np.where(swap, (two, one), (one, two))
    delta, lost = two_sum(less_mean, -mean)
    delta = delta + (lost + (less_low - low))
    share = (count - more) / count
    rough = less_mean - mean
    delta = np.where(np.isinf(rough), rough, delta)
    step = np.where(np.isinf(rough), less_mean * share - mean * share, delta * share)
    mean, lost = two_sum(mean, step)
    mean, low = two_sum(mean, lost + low)
    return mean, a.m2 + b.m2 + delta * step * more, np.where(np.isfinite(mean), low, 0.0)


def bits_but_of_nan(values):
    return np.where(np.isnan(values), np.nan, values).tobytes()


most = np.finfo(np.float64).max
extreme = st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 1.0, 1e8, most / 2, most, math.inf, math.nan])
any_value = st.floats(width=64) | st.floats(-10, 10) | extreme | extreme.map(lambda value: -value)
any_count = st.sampled_from([0, 1, 2, 2**31, 2**53 + 1, 2**62 - 1]) | st.integers(0, 2**62 - 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [Moments, GradientSums])
@settings(max_examples=300)
@given(data=st.data())
def test_merge_has_the_bits_of_the_formula(kind, data):
    rows = 3 if kind is Moments else 2
    channel = st.tuples(any_count, *[any_value] * rows)
    table = data.draw(st.lists(st.tuples(channel, channel), min_size=1, max_size=6))
    a, b = (
        kind._from_core(*(np.array(row) for row in zip(*part, strict=True)))
        for part in zip(*table, strict=True)
    )
    with np.errstate(all="raise"):
        got = a + b
    with np.errstate(all="ignore"):
        want = merged_values(a, b)
    assert got.count.tolist() == [x + y for x, y in zip(a.count, b.count, strict=True)]
    for x, y, both, value in zip(
        a._arrays()[1:], b._arrays()[1:], want, got._arrays()[1:], strict=True
    ):
        expected = np.where(b.count == 0, x, np.where(a.count == 0, y, both))
        assert bits_but_of_nan(value) == bits_but_of_nan(expected)


def test_merge_gives_the_class_of_the_left_side():
    class Mine(Moments):
        __slots__ = ()

    mine, other = Mine([1], [1.0], [0.0]), Mine([1], [3.0], [0.0])
    assert type(mine + other) is Mine and type(Moments.empty(1).merge(mine)) is Moments
