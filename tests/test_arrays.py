"""NumPy arrays that are taken or refused: byte orders, masked arrays; 16-bit numbers exactly."""

from __future__ import annotations

import itertools
from numbers import Real

import numpy as np
import pytest
from cases import BFLOAT16, DTYPES

import bnfast

pytestmark = pytest.mark.core

CHANNELS = np.ones(4)


def spelled_out(a: np.ndarray) -> np.ndarray:
    """The same values, of a dtype that names the machine's byte order."""
    swapped = a.astype(a.dtype.newbyteorder())
    named = swapped.byteswap().view(swapped.dtype.newbyteorder())
    assert named.dtype.isnative and np.array_equal(named, a)
    return named


def calls(change, dtype):
    """Every argument that is an array, as `change` makes it: name of the argument, call."""
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(dtype)
    y, ctx = bnfast.batch_norm(x)
    _, dropped = bnfast.dropout(x, seed=1)
    other = change(x)
    values = change(CHANNELS.astype(np.float32))
    where = change(np.ones((3, 5), np.bool_))
    return {
        "moments x": lambda: bnfast.moments(other),
        "moments where": lambda: bnfast.moments(x, where=where),
        "batch_norm x": lambda: bnfast.batch_norm(other),
        "batch_norm gamma": lambda: bnfast.batch_norm(x, values),
        "batch_norm beta": lambda: bnfast.batch_norm(x, None, values),
        "batch_norm residual": lambda: bnfast.batch_norm(x, residual=other),
        "batch_norm where": lambda: bnfast.batch_norm(x, where=where),
        "batch_norm out": lambda: bnfast.batch_norm(x, out=change(x.copy())),
        "batch_norm_backward dy": lambda: bnfast.batch_norm_backward(other, ctx),
        "batch_norm_backward out": lambda: bnfast.batch_norm_backward(y, ctx, out=change(x.copy())),
        "batch_norm_backward_sums dy": lambda: bnfast.batch_norm_backward_sums(other, ctx),
        "batch_norm_inference x": lambda: bnfast.batch_norm_inference(other, CHANNELS, CHANNELS),
        "batch_norm_inference mean": lambda: bnfast.batch_norm_inference(x, values, CHANNELS),
        "batch_norm_inference var": lambda: bnfast.batch_norm_inference(x, CHANNELS, values),
        "batch_norm_frozen x": lambda: bnfast.batch_norm_frozen(other, CHANNELS, CHANNELS),
        "dropout x": lambda: bnfast.dropout(other, seed=1),
        "dropout out": lambda: bnfast.dropout(x, seed=1, out=change(x.copy())),
        "dropout_backward dy": lambda: bnfast.dropout_backward(other, dropped),
        "dropout_inference x": lambda: bnfast.dropout_inference(other),
        "BatchNorm x": lambda: bnfast.BatchNorm(4)(other),
        "BatchNorm where": lambda: bnfast.BatchNorm(4).eval()(x, where=where),
        "LayerNorm x": lambda: bnfast.LayerNorm(5)(other),
        "GroupNorm x": lambda: bnfast.GroupNorm(2, 4)(other),
        "Dropout x": lambda: bnfast.Dropout(rng=1)(other),
    }


NAMES = list(calls(lambda a: a, np.float32))


def first(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", NAMES)
def test_the_native_byte_order_however_it_is_spelled(name):
    for dtype in DTYPES:
        got = first(calls(spelled_out, dtype)[name]())
        want = first(calls(lambda a: a, dtype)[name]())
        if isinstance(want, np.ndarray):
            assert got.tobytes() == want.tobytes()
            assert got.dtype == want.dtype and got.dtype.isnative
        else:
            assert got == want


@pytest.mark.parametrize("name", [name for name in NAMES if "where" not in name])
def test_a_foreign_byte_order_is_refused(name):
    call = calls(lambda a: a.astype(a.dtype.newbyteorder()), np.float32)[name]
    with pytest.raises(TypeError, match=r"has dtype [<>]f4, expected .* in native byte order"):
        call()


@pytest.mark.parametrize("name", NAMES)
def test_masked_arrays_are_refused(name):
    call = calls(lambda a: np.ma.array(a, mask=np.zeros(a.shape)), np.float32)[name]
    argument = name.split()[1]
    with pytest.raises(TypeError, match=rf"{argument} is a masked array, expected .*where=~mask"):
        call()


def test_nothing_is_written_where_out_is_masked():
    x = np.ones((3, 4), np.float32)
    out = np.ma.array(np.full((3, 4), 7, np.float32))
    with pytest.raises(TypeError, match="out is a masked array"):
        bnfast.dropout(x, out=out)
    assert np.all(out == 7)


def test_other_subclasses_are_numbers(tmp_path):
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3, 4))
    x[:] = np.arange(12).reshape(3, 4)
    assert np.array_equal(bnfast.batch_norm(x)[0], bnfast.batch_norm(np.array(x))[0])


# --- names of the arguments of the compiled functions ---------------------------------------------


@pytest.mark.parametrize(
    ("positional", "named", "message"),
    [
        ([], {}, "dy is missing"),
        ([1], {}, "ctx is missing"),
        ([1, 2], {"dy": 3}, "dy is given twice"),
        ([1, 2], {"gamma": 3}, "got an argument 'gamma', expected those of dy .. residual"),
        ([1, 2], {"\udc80": 3}, "got an argument '.*udc80', expected those of"),
        ([1, 2, 3, 4, 5, 6, 7], {}, "got 7 positional arguments, expected at most 6"),
    ],
)
def test_names_that_are_missing_unknown_or_given_twice(positional, named, message):
    for _ in range(2):  # what was found out about the names of a call is kept
        with pytest.raises(TypeError, match=f"^batch_norm_backward: {message}"):
            bnfast._core.batch_norm_backward(*positional, **named)


def test_arguments_may_come_in_any_order():
    """In more orders than are kept, and in calls that begin while another reads its arguments."""
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    gamma, beta = np.arange(4.0), np.ones(4)
    want = bnfast.batch_norm(x, gamma, beta, eps=0.5, activation="relu")[0]
    inner = itertools.cycle(itertools.permutations({"beta": beta, "eps": 0.5, "axis": 0}.items()))

    @Real.register
    class Axis:
        def __index__(self):
            bnfast._core.moments(x)
            bnfast._core.batch_norm(x.T, **dict(next(inner)))
            return 1

    named = {"eps": 0.5, "gamma": gamma, "axis": Axis(), "activation": 1, "beta": beta}
    for order in itertools.permutations(named.items()):
        assert bnfast._core.batch_norm(x, **dict(order))[0].tobytes() == want.tobytes()


# --- numbers of 16 bits ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["planes", "rows"])
@pytest.mark.parametrize("gamma", [1.0, 1.5, 1.25, 1.0078125, 0.3, -3e-3])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16.type])
def test_every_16_bit_number_is_read_and_rounded_to_nearest_even(dtype, gamma, layout):
    # Denormals, infinities, NaN; 1.5 and 1.25 times a short mantissa are ties in many cases.
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype).reshape(256, 256)
    shape = (256, 256) if layout == "rows" else (2, 128, 256)
    channels = shape[1]
    y = bnfast.batch_norm_inference(
        x.reshape(shape), np.zeros(channels), np.ones(channels), np.full(channels, gamma), eps=0.0
    ).reshape(x.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        want = (x.astype(np.float32) * np.float32(gamma) + np.float32(0)).astype(dtype)
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(y), nan)
    np.testing.assert_array_equal(y[~nan].view(np.uint16), want[~nan].view(np.uint16))


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16.type])
def test_no_nan_becomes_a_number_when_it_is_rounded(dtype, bits):
    gamma = np.full(40, bits, np.uint32).view(np.float32)
    x = np.ones((3, 40), dtype)
    assert np.isnan(bnfast.batch_norm_inference(x, np.zeros(40), np.ones(40), gamma)).all()
