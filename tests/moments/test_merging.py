"""Moments and GradientSums of parts merge into those of the whole, as exact arithmetic has it."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfast._moments import GradientSums, Moments
from moments.cases import exact_moments, moments_of, samples, statistics

ROUNDING = 2.0**-53


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("sizes", [(3, 5), (1, 1), (1, 200), (50, 50, 50), tuple([4] * 40)])
def test_merged_parts_are_the_whole(ratio, sizes):
    generator = np.random.default_rng(len(sizes))
    parts = [ratio + generator.standard_normal(size) for size in sizes]
    merged = sum((moments_of(part) for part in parts), start=Moments.empty(1))
    count, mean, m2 = exact_moments(np.concatenate(parts))
    std = math.sqrt(m2 / count)
    assert merged.count.tolist() == [count]
    assert abs(Fraction(merged.mean[0]) + Fraction(merged.mean_low[0]) - mean) <= 4e-15 * std
    assert abs(Fraction(merged.m2[0]) - m2) <= 4e-15 * m2
    assert abs(merged.mean_low[0]) <= ROUNDING * abs(merged.mean[0])


def test_mean_low_is_what_keeps_far_means_exact():
    """The same merge without mean_low errs by about 2**-53 * mean / std."""
    generator = np.random.default_rng(3)
    parts = [1e8 + generator.standard_normal(20) for _ in range(2)]
    mean = exact_moments(np.concatenate(parts))[1]
    merged = moments_of(parts[0]) + moments_of(parts[1])
    assert merged.mean_low[0] != 0
    assert Fraction(merged.mean[0]) != mean
    assert abs(Fraction(merged.mean[0]) + Fraction(merged.mean_low[0]) - mean) < Fraction(1, 10**14)


@pytest.mark.parametrize("count", [1, 1000, 2**40])
def test_one_far_element_beside_many(count):
    """The mean is reached from the larger part, whichever side of the sum it stands on."""
    many = Moments([count], [0.25], [float(count)])
    one = Moments([1], [1e9], [0.0])
    delta, total = Fraction(1e9) - Fraction(1, 4), count + 1
    mean, m2 = Fraction(1, 4) + delta / total, count + delta**2 * Fraction(count, total)
    for merged in (many + one, one + many):
        got = Fraction(merged.mean[0]) + Fraction(merged.mean_low[0])
        assert abs(got - mean) <= delta / total * Fraction(1, 10**15)
        assert abs(Fraction(merged.m2[0]) - m2) <= m2 * Fraction(1, 10**15)


@given(samples, samples, samples)
def test_merge_is_associative_and_commutative_to_rounding(a, b, c):
    parts = [moments_of(values) for values in (a, b, c)]
    count, mean, m2 = exact_moments(a + b + c)
    deviation = math.sqrt(m2 / count) if count else 0
    for x, y, z in itertools.permutations(parts):
        for merged in ((x + y) + z, x + (y + z)):
            assert merged.count[0] == count
            got = Fraction(merged.mean[0]) + Fraction(merged.mean_low[0])
            assert abs(got - mean) <= 1e-14 * deviation
            # the parts' own m2 and delta are rounded: each at most once an operation
            assert abs(merged.m2[0] - float(m2)) <= 1e-14 * float(m2)


@given(st.lists(st.tuples(samples, samples), min_size=1, max_size=5))
def test_channels_do_not_touch_each_other(channels):
    left, right = zip(*channels, strict=True)
    together = moments_of(*left) + moments_of(*right)
    for index, (a, b) in enumerate(channels):
        alone = moments_of(a) + moments_of(b)
        for got, want in zip(together._arrays(), alone._arrays(), strict=True):
            assert got[index : index + 1].tobytes() == want.tobytes()


@given(statistics())
def test_merge_with_empty_changes_no_bit(some):
    empty = type(some).empty(len(some))
    # where some itself has count 0, its values say nothing, and either side may be returned
    seen = some.count > 0
    for merged in (some + empty, empty + some):
        for got, want in zip(merged._arrays(), some._arrays(), strict=True):
            assert got[seen].tobytes() == want[seen].tobytes()


def test_count_zero_is_left_out_a_channel_at_a_time():
    poison = [math.nan, 5.0]
    a = Moments([0, 2], poison, poison)
    b = Moments([3, 0], [1.0, math.nan], [2.0, math.nan])
    expected = Moments([3, 2], [1.0, 5.0], [2.0, 5.0])
    assert a + b == expected
    assert b + a == expected


def test_merge_of_non_finite_data_is_not_finite_and_silent():
    bad = Moments([2, 2, 2], [math.inf, math.nan, -math.inf], [math.nan] * 3)
    with np.errstate(all="raise"):
        merged = bad + Moments([1] * 3, [0.0] * 3, [0.0] * 3)
        both = bad + bad
    for result in (merged, both):
        assert not np.isfinite(result.mean).any()
        assert np.isnan(result.m2).all()
        assert not result.mean_low.any()


@given(statistics(GradientSums), st.integers(1, 2**40))
def test_gradient_sums_add(some, count):
    other = GradientSums([count] * len(some), some.sum_dy_xmu, some.sum_dy[::-1])
    merged = GradientSums(some.count + 1, some.sum_dy, some.sum_dy_xmu) + other
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(merged.sum_dy, some.sum_dy + some.sum_dy_xmu)
        np.testing.assert_array_equal(merged.sum_dy_xmu, some.sum_dy_xmu + some.sum_dy[::-1])
    np.testing.assert_array_equal(merged.count, some.count + 1 + count)


def test_sum_with_start():
    parts = [Moments([1], [float(i)], [0.0]) for i in range(5)]
    assert sum(parts, start=Moments.empty(1)) == Moments([5], [2.0], [10.0])
    with pytest.raises(TypeError):
        sum(parts)


def test_merge_errors():
    m = Moments.empty(2)
    with pytest.raises(ValueError, match=r"Moments\.merge: other has 3 channels, expected 2"):
        m.merge(Moments.empty(3))
    with pytest.raises(TypeError, match=r"Moments\.merge: other is of type GradientSums, expected"):
        m.merge(GradientSums.empty(2))
    for other in (GradientSums.empty(2), 1, np.zeros(2)):
        with pytest.raises(TypeError, match="operand"):
            m + other
        with pytest.raises(TypeError):
            other + m


def test_a_mean_between_the_ends_of_float64_is_found():
    most = np.finfo(np.float64).max
    low, high = (
        Moments([1, 3], [-most, most], [0, 0]),
        Moments([1] * 2, [most] * 2, [0] * 2),
    )
    both = low + high
    assert both.mean[0] == 0 and both.m2[0] == np.inf
    assert both.mean[1] == most and both.m2[1] == 0


def test_a_count_beyond_int64_is_refused():
    many = Moments([2**62], [0.0], [0.0])
    with pytest.raises(ValueError, match=r"Moments.merge: a count is beyond int64"):
        many + many
