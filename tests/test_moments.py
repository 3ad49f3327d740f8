"""Moments and GradientSums merge as exact arithmetic does, and keep their bits as bytes."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfast._moments import GradientSums, Moments

ROUNDING = 2.0**-53


def exact_moments(values):
    """Count, mean and m2 of some floats as exact fractions."""
    numbers = [Fraction(float(value)) for value in values]
    if not numbers:
        return 0, Fraction(0), Fraction(0)
    mean = sum(numbers) / len(numbers)
    return len(numbers), mean, sum((number - mean) ** 2 for number in numbers)


def moments_of(*channels):
    """Moments of one list of floats a channel, each entry rounded once from the exact value."""
    exact = [exact_moments(values) for values in channels]
    high = [float(mean) for _, mean, _ in exact]
    low = [float(mean - Fraction(h)) for (_, mean, _), h in zip(exact, high, strict=True)]
    return Moments([n for n, _, _ in exact], high, [float(m2) for _, _, m2 in exact], low)


def bits(statistics):
    return [array.tobytes() for array in statistics._arrays()]


# squares of smaller numbers would lose digits to underflow, which no formula can keep
floats = st.floats(-1e6, 1e6).map(lambda value: value if abs(value) > 1e-60 else 0.0)
samples = st.lists(floats, min_size=0, max_size=12)


@st.composite
def statistics(draw, kind=None):
    kind = kind or draw(st.sampled_from([Moments, GradientSums]))
    channels = draw(st.integers(0, 5))

    def values(element):
        return np.array(draw(st.lists(element, min_size=channels, max_size=channels)))

    count = values(st.integers(0, 2**60)).astype(np.int64)
    any_float = st.floats(width=64)
    if kind is GradientSums:
        return GradientSums(count, *(values(any_float).astype(float) for _ in range(2)))
    mean, low = (values(any_float).astype(float) for _ in range(2))
    m2 = values(st.floats(0.0, math.inf) | st.just(math.nan)).astype(float)
    return Moments(count, mean, m2, low)


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


@given(statistics(), st.integers(0, 3))
def test_no_floating_point_state_of_the_caller_matters(some, correction):
    def everything():
        made = type(some)(some.count, *values)
        merged = [some + some, some + made, made + some]
        merged += [pickle.loads(pickle.dumps(each)) for each in merged]
        arrays = [some.var(correction), some.std(correction)] if type(some) is Moments else []
        same = [each == other for each in merged for other in merged]
        return [bits(each) for each in merged], [a.tobytes() for a in arrays], repr(merged), same

    with np.errstate(all="ignore"):
        values = [np.abs(array).astype(np.float32) for array in some._arrays()[1:]]
    seen = []
    for state in ("ignore", "raise"):
        with np.errstate(all=state):
            seen.append(everything())
    assert seen[0] == seen[1]


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


@pytest.mark.filterwarnings("error")
def test_var_and_std():
    m = Moments([0, 1, 2, 5], [0.0] * 4, [0.0, 0.0, 8.0, 20.0])
    nan = math.nan
    np.testing.assert_array_equal(m.var(), [nan, 0.0, 4.0, 4.0])
    np.testing.assert_array_equal(m.var(correction=1), [nan, nan, 8.0, 5.0])
    np.testing.assert_array_equal(m.std(), [nan, 0.0, 2.0, 2.0])
    np.testing.assert_array_equal(m.std(1), np.sqrt([nan, nan, 8.0, 5.0]))
    with pytest.raises(TypeError, match=r"Moments\.var: correction is of type str"):
        m.var("1")
    with pytest.raises(ValueError, match=r"Moments\.var: correction is -1, expected"):
        m.var(-1)


@given(statistics())
def test_bytes_pickles_and_copies_keep_every_bit(some):
    copies = [
        type(some).from_bytes(some.to_bytes()),
        type(some).from_bytes(bytearray(some.to_bytes())),
        *(pickle.loads(pickle.dumps(some, protocol)) for protocol in range(6)),
        copy.copy(some),
        copy.deepcopy(some),
    ]
    for made in copies:
        assert type(made) is type(some)
        assert bits(made) == bits(some)
        assert made == some
        assert [a.dtype for a in made._arrays()] == [a.dtype for a in some._arrays()]


def test_bytes_are_little_endian_with_a_header():
    data = Moments([3], [1.5], [2.0], [1e-20]).to_bytes()
    assert data == b"bnfs\x01\x01\0\0" + struct.pack("<Qqddd", 1, 3, 1.5, 2.0, 1e-20)


@given(statistics(), st.data())
def test_any_changed_entry_makes_them_unequal(some, data):
    if len(some) == 0:
        return
    arrays = [array.copy() for array in some._arrays()]
    row = data.draw(st.integers(0, len(arrays) - 1))
    channel = data.draw(st.integers(0, len(some) - 1))
    old = arrays[row][channel]
    arrays[row][channel] = 7 if old != 7 else 8
    changed = type(some)(*arrays)
    assert changed != some
    assert not changed.__eq__(some)


def test_equality_with_others():
    empty, sums = Moments.empty(2), GradientSums.empty(2)
    assert empty != sums
    assert empty != "moments"
    assert Moments.empty(2) != Moments.empty(3)
    with pytest.raises(TypeError):
        hash(empty)


def test_arrays_are_copies_and_read_only():
    mean = np.array([1.0, 2.0])
    m = Moments([1, 1], mean, [0.0, 0.0])
    mean[:] = 9
    assert m.mean.tolist() == [1.0, 2.0]
    owned = Moments._from_core(np.ones(2, np.int64), mean, mean, mean)
    for some in (m, owned, m + m, GradientSums.empty(2)):
        for array in some._arrays():
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 3
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
        with pytest.raises(AttributeError, match="cannot be set"):
            some.count = 3


def test_dtypes_length_and_repr():
    m = Moments(np.array([1, 2], np.uint8), np.array([1, 2], np.float32), [0, 1])
    assert [array.dtype for array in m._arrays()] == [np.int64] + [np.float64] * 3
    assert len(m) == 2
    assert repr(m) == "Moments(count=[1, 2], mean=[1., 2.], m2=[0., 1.], mean_low=[0., 0.])"
    assert len(repr(Moments.empty(1000))) < 300
    assert len(Moments([], [], [])) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.5], [0.0], [0.0]), TypeError, "Moments: count has dtype float64, expected int64"),
        (([-1], [0.0], [0.0]), ValueError, "Moments: count has -1, expected no negative entry"),
        (([[1]], [0.0], [0.0]), ValueError, r"Moments: count has shape \(1, 1\), expected one"),
        ((3, [0.0], [0.0]), ValueError, r"Moments: count has shape \(\), expected one entry"),
        (([1], [0.0, 1.0], [0.0]), ValueError, r"mean has shape \(2,\), expected \(1,\)"),
        (([1], [0.0], [-1.0]), ValueError, "Moments: m2 has -1, expected no negative entry"),
        (([1], [1j], [0.0]), TypeError, "Moments: mean has dtype complex128, expected float32 or"),
        (([1], np.array([1]), [0.0]), TypeError, "mean has dtype int64, expected float32 or"),
        (([1], np.array([1], ">f8"), [0.0]), TypeError, "mean has dtype >f8, expected float32 or"),
        (([1], np.array([1], np.float16), [0.0]), TypeError, "mean has dtype float16, expected"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Moments(*arguments)


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


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "data is of type str, expected bytes", lambda b: "bnfs"),
        (ValueError, "data has 3 bytes, expected a header of 16", lambda b: b[:3]),
        (ValueError, "data has magic b'xnfs', expected b'bnfs'", lambda b: b"x" + b[1:]),
        (ValueError, "data has version 9, expected 1", lambda b: b[:4] + b"\x09" + b[5:]),
        (ValueError, "data has kind 2, expected 1", lambda b: b[:5] + b"\x02" + b[6:]),
        (ValueError, "data has 79 bytes, expected 80 for 2 channels", lambda b: b[:-1]),
        (ValueError, "data has 81 bytes, expected 80 for 2 channels", lambda b: b + b"\0"),
        (ValueError, "count has -1", lambda b: b[:16] + b"\xff" * 8 + b[24:]),
    ],
)
def test_from_bytes_errors(error, message, change):
    data = Moments([1, 2], [0.0, 1.0], [0.0, 1.0]).to_bytes()
    with pytest.raises(error, match=message):
        Moments.from_bytes(change(data))


@settings(max_examples=30)
@given(st.binary(max_size=100))
def test_from_bytes_of_anything_is_a_value_error(data):
    with pytest.raises(ValueError, match="data has"):
        Moments.from_bytes(data)


def test_empty_errors():
    with pytest.raises(ValueError, match=r"Moments\.empty: channels is -1, expected at least 0"):
        Moments.empty(-1)
    with pytest.raises(TypeError, match=r"GradientSums\.empty: channels is of type float"):
        GradientSums.empty(1.0)


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


# --- the formula, against the same formula on arrays ---


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
