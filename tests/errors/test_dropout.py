"""Dropout refuses bad arguments, with a message that tells what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bnfast

pytestmark = pytest.mark.core

X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
BAD_X = [
    ({"x": [1.0]}, TypeError, "x has type list, expected a NumPy or DLPack array"),
    ({"x": np.ones(3, int)}, TypeError, "x has dtype int64, expected"),
    ({"x": np.ones(3, complex)}, TypeError, "x has dtype complex128, expected"),
    ({"x": np.ones(3, ">f4")}, TypeError, "x has dtype >f4, expected"),
    (
        {"out": np.zeros((2, 4), np.float32)},
        ValueError,
        r"out has shape \(2, 4\), expected \(2, 3\)",
    ),
    ({"out": np.zeros((2, 3))}, TypeError, "out has dtype float64, expected float32"),
    ({"out": [[0.0] * 3] * 2}, TypeError, "out has type list, expected"),
    ({"rate": -0.1}, ValueError, r"rate is -0.1, expected a number in \[0, 1\]"),
    ({"rate": 1.0000001}, ValueError, r"rate is 1, expected a number in \[0, 1\]"),
    ({"rate": float("nan")}, ValueError, "rate is nan, expected"),
    ({"rate": "0.5"}, TypeError, "rate is of type str, expected a number"),
    ({"rate": True}, TypeError, "rate is of type bool, expected a number"),
    ({"rate": None}, TypeError, "rate is of type NoneType, expected a number"),
    (
        {"mode": "train"},
        ValueError,
        "mode is 'train', expected one of 'inverted', 'classic', 'alpha'",
    ),
    ({"mode": 0}, ValueError, "mode is 0, expected one of"),
]
BAD_MASK = [
    ({"seed": -1}, ValueError, "seed is -1, expected at least 0"),
    ({"seed": 2**64}, ValueError, r"seed is 18446744073709551616, expected less than 2\*\*64"),
    (
        {"seed": 1.5},
        TypeError,
        r"seed is of type float, expected None, an int .* or a numpy.random.Generator",
    ),
    (
        {"seed": "a"},
        TypeError,
        r"seed is of type str, expected None, an int .* or a numpy.random.Generator",
    ),
    ({"seed": False}, TypeError, "seed is of type bool, expected None, an int"),
    ({"offset": -1}, ValueError, "offset is -1, expected at least 0"),
    ({"offset": 2**63}, ValueError, r"offset is 9223372036854775808, expected less than 2\*\*63"),
    ({"offset": 0.0}, TypeError, "offset is of type float, expected an integer"),
    ({"offset": None}, TypeError, "offset is of type NoneType, expected an integer"),
    ({"broadcast_axes": 1}, TypeError, "broadcast_axes is 1, expected a tuple of int"),
    ({"broadcast_axes": (1.0,)}, TypeError, r"broadcast_axes is \(1.0,\), expected a tuple of int"),
    ({"broadcast_axes": (True,)}, TypeError, "broadcast_axes is .*, expected a tuple of int"),
    ({"broadcast_axes": (np.True_,)}, TypeError, "broadcast_axes is .*, expected a tuple of int"),
    ({"seed": np.random.RandomState(0)}, TypeError, "seed is of type RandomState, expected None"),
    ({"rate": np.array([0.5])}, TypeError, "rate is of type ndarray, expected a number"),
    ({"rate": np.array(True)}, TypeError, "rate is of type ndarray, expected a number"),
    ({"broadcast_axes": (2,)}, ValueError, "broadcast_axes has 2, expected"),
    ({"broadcast_axes": (-3,)}, ValueError, "broadcast_axes has -3, expected"),
    ({"broadcast_axes": (0, -2)}, ValueError, "broadcast_axes has -2, expected distinct"),
    ({"broadcast_axes": (2**40,)}, ValueError, r"broadcast_axes is \(1099511627776,\), expected"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_X + BAD_MASK)
def test_bad_calls_of_dropout(arguments, error, message):
    call: dict[str, Any] = {"x": X, "out": np.full((2, 3), 7, np.float32), "seed": 1}
    call.update(arguments)
    before = call["out"].tobytes() if isinstance(call["out"], np.ndarray) else b""
    with pytest.raises(error, match=f"^dropout: {message}"):
        bnfast.dropout(**call)
    assert not before or call["out"].tobytes() == before


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_X)
def test_bad_calls_of_dropout_inference(arguments, error, message):
    call = {"x": X, **arguments}
    with pytest.raises(error, match=f"^dropout_inference: {message}"):
        bnfast.dropout_inference(**call)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        *(case for case in BAD_X if "rate" in case[0]),
        *BAD_MASK,
        ({"shape": 3}, TypeError, "shape is of type int, expected a tuple of int"),
        ({"shape": (2, -1)}, ValueError, "shape is -1, expected at least 0"),
        ({"shape": (2.0,)}, TypeError, "shape is of type float, expected an integer"),
        ({"shape": (1,) * 65}, ValueError, "shape has 65 dimensions, expected at most"),
        ({"shape": (2**40, 2**40)}, ValueError, r"shape is \(.*\), expected less than 2\*\*63"),
        ({"shape": (0, 2**40, 2**40)}, ValueError, r"shape is \(.*\), expected less than 2\*\*63"),
    ],
)
def test_bad_calls_of_dropout_mask(arguments, error, message):
    call = {"shape": (2, 3), "rate": 0.5, "seed": 1, **arguments}
    with pytest.raises(error, match=f"^dropout_mask: {message}"):
        bnfast.dropout_mask(**call)


@pytest.mark.parametrize(
    ("dy", "out", "error", "message"),
    [
        (
            np.ones((3, 2), np.float32),
            None,
            ValueError,
            r"dy has shape \(3, 2\), expected \(2, 3\) as x",
        ),
        (
            np.ones((2, 1), np.float32),
            None,
            ValueError,
            r"dy has shape \(2, 1\), expected \(2, 3\) as x",
        ),
        (
            np.ones(6, np.float32),
            np.ones(6, np.float32),
            ValueError,
            r"dy has shape \(6,\), expected",
        ),
        ([[1.0] * 3] * 2, None, TypeError, "dy has type list, expected"),
        (np.ones((2, 3), int), None, TypeError, "dy has dtype int64, expected"),
        (
            np.ones((2, 3)),
            np.ones((2, 3), np.float32),
            TypeError,
            "out has dtype float32, expected float64",
        ),
    ],
)
def test_bad_calls_of_dropout_backward(dy, out, error, message):
    _, ctx = bnfast.dropout(X, 0.5, seed=1)
    before = None if out is None else out.copy()
    with pytest.raises(error, match=f"^dropout_backward: {message}"):
        bnfast.dropout_backward(dy, ctx, out=out)
    np.testing.assert_array_equal(out, before)
    with pytest.raises(
        TypeError, match=r"^dropout_backward: ctx has type NoneType, expected DropoutContext"
    ):
        bnfast.dropout_backward(np.ones((2, 3)), None)


@pytest.mark.parametrize("which", ["dropout", "dropout_backward", "dropout_inference"])
def test_out_is_checked(which):
    memory = np.ones(100, np.float32)
    x = memory[:60].reshape(6, 10)
    _, ctx = bnfast.dropout(x, 0.5, seed=1)

    def call(out):
        if which == "dropout_backward":
            return bnfast.dropout_backward(x, ctx, out=out)
        return getattr(bnfast, which)(x, 0.5, out=out)

    frozen = np.zeros((6, 10), np.float32)
    frozen.setflags(write=False)
    for out, message in (
        (memory[20:80].reshape(6, 10), "out overlaps .* in memory, expected"),
        (memory[:60].reshape(6, 10)[::-1], "out overlaps .* in memory, expected"),
        (frozen, "out is read-only, expected a writeable array"),
        (np.broadcast_to(np.zeros(1, np.float32), (6, 10)), "out is read-only"),
    ):
        with pytest.raises(ValueError, match=f"^{which}: {message}"):
            call(out)
        assert np.all(memory == 1) and np.all(frozen == 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dropout": 2}, ValueError, r"dropout is 2, expected a number in \[0, 1\]"),
        ({"dropout": -0.5}, ValueError, r"dropout is -0.5, expected a number in \[0, 1\]"),
        ({"dropout": np.nan}, ValueError, "dropout is nan, expected a number"),
        ({"dropout": "0.5"}, TypeError, "dropout is of type str, expected a number"),
        ({"dropout": None}, TypeError, "dropout is of type NoneType, expected a number"),
        ({"seed": -1}, ValueError, "seed is -1, expected at least 0"),
        ({"seed": 2**64}, ValueError, r"seed is \d*, expected less than 2\*\*64"),
        ({"seed": 0.5}, TypeError, "seed is of type float, expected None, an int"),
        ({"offset": 2**63}, ValueError, r"offset is \d*, expected less than 2\*\*63"),
        ({"offset": "0"}, TypeError, "offset is of type str, expected an integer"),
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_bad_calls_of_batch_norm_with_dropout(arguments, error, message, rate):
    out = np.full((50, 4), 7, np.float32)
    with pytest.raises(error, match=f"^batch_norm: {message}"):
        bnfast.batch_norm(np.ones((50, 4), np.float32), out=out, **{"dropout": rate, **arguments})
    assert np.all(out == 7)
