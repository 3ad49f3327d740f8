"""Moments and GradientSums are values: read-only, equal by their bits, and kept whole as bytes."""

from __future__ import annotations

import copy
import math
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfast._moments import GradientSums, Moments
from moments.cases import bits, statistics


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
