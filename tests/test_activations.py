"""Activations and their derivatives on dense grids, against wide arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import ACTIVATIONS, BFLOAT16

import bnfast

NAMED = [name for name in ACTIVATIONS if name is not None]


def grid(dtype: np.dtype) -> np.ndarray:
    generator = np.random.default_rng(0)
    tiny = np.geomspace(1e-30, 1, 4001)
    ranges = [
        np.linspace(-30, 30, 60001),
        np.linspace(-800, 800, 3201),
        tiny,
        -tiny,
        np.array([0.0, -0.0, 1e30, -1e30]),
        generator.normal(0, 4, 20000),
    ]
    return np.concatenate(ranges).astype(dtype)[:, None]


def through(name, x, slope=0.01):
    """act(x): statistics 0 and 1 and eps 0 leave the affine without any rounding."""
    return bnfast.batch_norm_frozen(
        x, np.zeros(1), np.ones(1), eps=0.0, activation=name, activation_slope=slope
    )


def check(got, want, ulps, tail):
    """Within `ulps`, or in the tail, where results may vanish, within an absolute error."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = want.astype(got.dtype)
    off = np.abs(got.astype(np.longdouble) - want)
    near = off <= ulps * np.spacing(np.abs(rounded)).astype(np.longdouble)
    absolute = 2.0**-24 if got.dtype == np.float32 else 2.0**-53
    near |= (off <= ulps / 4 * absolute) & tail
    near |= np.abs(want) < np.finfo(got.dtype).tiny  # below the normal numbers
    assert near.all(), (np.nonzero(~near)[0][:5], got[~near][:5], want[~near][:5])
    assert not np.signbit(got[want > np.finfo(got.dtype).tiny]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMED)
def test_forward_within_4_ulp(name, dtype, target):
    x = grid(dtype)
    y, _ = through(name, x)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        want, _ = reference.activate(x.astype(np.longdouble), name)
    check(y, want, 4, tail=x < -1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMED)
def test_derivative_within_8_ulp(name, dtype, target):
    x = grid(dtype)
    x = x[(np.abs(x) < 1e4) & (x != 0)][:, None]  # at a kink it is a matter of convention
    _, ctx = through(name, x)
    dx = bnfast.batch_norm_backward(np.ones_like(x), ctx).dx
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        _, want = reference.activate(x.astype(np.longdouble), name)
    # They vanish in tails, and those of silu and gelu at a place below 0.
    check(dx, want, 8, tail=np.abs(want) < 0.25)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=str)
@pytest.mark.parametrize("name", NAMED)
def test_16_bits_round_the_float32_result(name, dtype, target):
    x = np.linspace(-20, 20, 4001).astype(dtype)[:, None]
    wide, _ = through(name, x.astype(np.float32))
    assert through(name, x)[0].tobytes() == wide.astype(dtype).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("relu", 0, np.inf),
        ("leaky_relu", -np.inf, np.inf),
        ("sigmoid", 0, 1),
        ("tanh", -1, 1),
        ("silu", 0, np.inf),
        ("gelu", 0, np.inf),
        ("elu", -1, np.inf),
    ],
)
def test_limits_and_nan(name, low, high, dtype, target):
    x = np.array([-np.inf, np.inf, np.nan], dtype)[:, None]
    y, _ = through(name, x)
    np.testing.assert_array_equal(y[:, 0], np.array([low, high, np.nan], dtype))


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 1.0, -2.0])
def test_slope_of_leaky_relu(slope):
    x = np.array([[-2.0], [3.0]])
    y, ctx = through("leaky_relu", x, slope)
    np.testing.assert_array_equal(y, [[-2.0 * slope], [3.0]])
    dx = bnfast.batch_norm_backward(np.ones_like(x), ctx).dx
    np.testing.assert_array_equal(dx, [[slope], [1.0]])
