"""What counts as a number, a choice, an array of one entry a channel, and what does not."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import bnfast
from bnfast._checks import (
    is_real,
    one_of,
    real_number,
    real_numbers,
    state_dtype,
    truth,
    whole_number,
)

FLOATS = [np.float16, np.float32, np.float64, np.longdouble, ml_dtypes.bfloat16]
INTEGERS = [np.int8, np.int64, np.uint8, np.uint64]


@pytest.mark.parametrize("kind", [*FLOATS, *INTEGERS, int, float, Fraction])
def test_real_numbers(kind):
    assert is_real(kind(1)) and real_number("f", "rate", kind(1), low=0) == 1.0
    assert type(real_number("f", "rate", kind(1), low=0)) is float
    if kind is not Fraction:
        assert (
            is_real(np.array(1, kind)) and real_number("f", "rate", np.array(1, kind), low=0) == 1
        )


@pytest.mark.parametrize(
    "value",
    [
        *(True, np.True_, np.array(True), 1j, np.complex64(1), np.array(1j), "1", np.str_("1")),
        *(None, [1.0], np.ones(1), np.array(None), Decimal(1), np.timedelta64(1), np.ma.masked),
    ],
    ids=repr,
)
def test_what_is_no_real_number(value):
    assert not is_real(value)
    with pytest.raises(TypeError, match=rf"^f: eps is of type {type(value).__name__}, expected a"):
        real_number("f", "eps", value, low=0, high=1)


def test_the_range_of_a_number():
    for value, shown in (
        (2, "2"),
        (np.float16(-1), "-1"),
        (np.array(np.nan), "nan"),
        (1e999, "inf"),
    ):
        with pytest.raises(ValueError, match=rf"^f: a is {shown}, expected a number in \[0, 1\]$"):
            real_number("f", "a", value, low=0, high=1)
    for value in (10**400, Fraction(10**400)):
        with pytest.raises(ValueError, match=r"^f: a is inf, expected a number >= 0 and finite$"):
            real_number("f", "a", value, low=0)


def test_whole_numbers():
    for kind in (int, *INTEGERS):
        assert type(whole_number("f", "n", kind(3), low=1)) is int
    assert whole_number("f", "n", np.array(3, np.uint8), low=1) == 3
    for value in (True, np.True_, np.array(True), 3.0, np.array(3.0), np.array([3]), "3", None):
        with pytest.raises(TypeError, match=rf"^f: n is of type {type(value).__name__}, expected"):
            whole_number("f", "n", value, low=0)


def test_choices():
    for value in (1, np.int8(1), np.array(1)):
        assert type(one_of("f", "correction", value, (0, 1))) is int
    assert type(one_of("f", "mode", np.str_("ema"), ("ema", "other"))) is str
    for value in (True, np.True_, 1.0, "1", None, [1], np.array([1])):
        with pytest.raises(ValueError, match=r"^f: correction is .*, expected one of 0, 1$"):
            one_of("f", "correction", value, (0, 1))
    assert truth("f", "training", np.True_) is True
    with pytest.raises(TypeError, match="training is of type NoneType, expected a bool"):
        truth("f", "training", None)


def test_byte_order_is_native_however_it_is_spelled():
    native = np.ones(3, ">f4").byteswap().view(np.dtype(">f4").newbyteorder())
    np.testing.assert_array_equal(real_numbers("f", "mean", native, (3,)), 1)
    foreign = "mean has dtype >f4, expected float32 or float64 in native byte order"
    with pytest.raises(TypeError, match=f"^f: {foreign}$"):
        real_numbers("f", "mean", np.ones(3, ">f4"), (3,))


@pytest.mark.parametrize(
    ("operation", "argument"),
    [
        (lambda m: bnfast.Moments([1, 1], m, [0.0, 0.0]), "Moments: mean"),
        (lambda m: bnfast.Moments(m.astype(int), m.data, m.data), "Moments: count"),
        (lambda m: bnfast.fold_batch_norm(np.ones((2, 2)), m, [0, 0], [1, 1]), "f.*: bias"),
        (lambda m: bnfast.fold_batch_norm(m, None, [0, 0], [1, 1]), "f.*: weight"),
        (lambda m: bnfast.BatchNorm(2).eval()(m[None].data, None, m > 0), "batch_norm.*: where"),
    ],
)
def test_masked_arrays_are_refused(operation, argument):
    masked = np.ma.array([1.0, 2.0], mask=[0, 1])
    expected = r"its \.data \(masks are ignored: leave elements out by where=~mask\)"
    with pytest.raises(TypeError, match=f"^{argument} is a masked array, expected {expected}$"):
        operation(masked)


@pytest.mark.parametrize("dtype", ["banana", object(), np.float16, ">f4", None, {"a": 1}, 3])
def test_a_dtype_that_is_none(dtype):
    with pytest.raises(TypeError, match=r"^f: dtype is .*, expected float32 or float64$"):
        state_dtype("f", dtype)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, ml_dtypes.bfloat16])
def test_calls_take_numbers_of_any_kind(kind):
    """As scalars and as arrays without dimensions."""
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    want = bnfast.batch_norm(x, eps=1.0, activation="leaky_relu", activation_slope=1.0)[0]
    for one in (kind(1), np.array(1, kind)):
        got = bnfast.batch_norm(x, eps=one, activation="leaky_relu", activation_slope=one)[0]
        np.testing.assert_array_equal(got, want)
        assert not bnfast.dropout(x, one)[0].any()
    axis = np.array(1)
    np.testing.assert_array_equal(bnfast.batch_norm(x, axis=axis)[0], bnfast.batch_norm(x)[0])
