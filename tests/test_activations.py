"""Activations and their derivatives are those of wide arithmetic; ReLU passes where z > 0."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import ACTIVATIONS, BFLOAT16, DTYPES, assert_same_bits, per_channel
from hypothesis import example, given, settings
from hypothesis import strategies as st

import bnfast

pytestmark = pytest.mark.core

NAMED = [name for name in ACTIVATIONS if name is not None]


def grid(dtype: np.dtype) -> np.ndarray:
    generator = np.random.default_rng(0)
    tiny = np.geomspace(1e-30, 1, 4001)
    ranges = [
        np.linspace(-30, 30, 20001),
        np.linspace(-800, 800, 3201),
        tiny,
        -tiny,
        np.array([0.0, -0.0, 1e30, -1e30]),
        generator.normal(0, 4, 10000),
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


# --- where ReLU lets gradients through ------------------------------------------------------------

RELU_SHAPES = [((3, 5, 37, 41), 1), ((48, 19, 7, 7), 1), ((1100, 6, 2), 1), ((2309, 33), -1),
               ((4100, 3), -1), ((40, 33), -1)]  # fmt: skip


def statistics(channels, rng):
    """Means, variances, gamma of both signs and beta, of many magnitudes."""
    scale = 10.0 ** rng.integers(-3, 4, channels)
    mean, var = rng.standard_normal(channels) * scale, rng.uniform(0.5, 2, channels) * scale**2
    gamma = rng.standard_normal(channels) * 10.0 ** rng.integers(-3, 4, channels)
    return mean, var, gamma, rng.standard_normal(channels)


def near_zero_of_z(shape, axis, dtype, statistics, rng):
    """Inputs of which most make z zero but for a few roundings, and some are anywhere."""
    mean, var, gamma, beta = (per_channel(a, len(shape), axis) for a in statistics)
    std = np.sqrt(var)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        root = mean - beta * std / gamma
        rounding = np.finfo(np.float32 if dtype is np.float32 else np.float16).eps
        steps = rng.integers(-4, 5, shape) * rounding
        x = root + (np.abs(root) + np.abs(mean) + std) * steps
        anywhere = mean + std * rng.standard_normal(shape)
        return np.where((rng.random(shape) < 0.2) | ~np.isfinite(x), anywhere, x).astype(dtype)


def relu_gradients(x, dy, axis, statistics):
    """Where forward's z is above 0, and the gradients."""
    options = {"axis": axis, "eps": 0.0, "activation": "relu"}
    # In float32, which does not round a positive z to 0 as 16 bits do.
    y = bnfast.batch_norm_inference(x.astype(np.float32), *statistics, **options)
    _, ctx = bnfast.batch_norm_frozen(x, *statistics, **options)
    return y > 0, bnfast.batch_norm_backward(dy, ctx)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16.type])
@pytest.mark.parametrize(("shape", "axis"), RELU_SHAPES)
def test_relu_passes_gradients_exactly_where_z_is_positive(shape, axis, dtype):
    rng = np.random.default_rng(len(shape))
    values = statistics(shape[axis], rng)
    x = near_zero_of_z(shape, axis, dtype, values, rng)
    dy = rng.integers(1, 9, shape).astype(dtype)  # whose sums are exact
    passes, grads = relu_gradients(x, dy, axis, values)
    assert 0.2 < passes.mean() < 0.8
    others = tuple(d for d in range(len(shape)) if d != axis % len(shape))
    np.testing.assert_array_equal(grads.dbeta, np.where(passes, dy, 0).sum(others, np.float64))
    if dtype is np.float32:
        np.testing.assert_array_equal(grads.dx != 0, passes)


FINITE = (
    st.integers(0, 2**32 - 1)
    .map(lambda bits: float(np.array(bits, np.uint32).view(np.float32)))
    .filter(np.isfinite)
)


@settings(max_examples=100)
@given(FINITE, FINITE.filter(lambda a: a != 0), FINITE, st.integers(0, 2**32))
@example(0.0, 1.0, -0.0, 0)
@example(0.0, -1.0, 0.0, 0)
@example(1.0, -1.0, 3.0e38, 0)
@example(-3.0e38, 2.0, 1.0, 0)
@example(1.0, 0.0, 1.0, 0)
def test_relu_of_any_coefficients(mean, gamma, beta, seed):
    """Every finite mean, gamma and beta, and every x, infinities and NaN included."""
    rng = np.random.default_rng(seed)
    values = [np.array([a]) for a in (mean, 1.0, gamma, beta)]
    x = rng.integers(0, 2**32, (4096, 1), dtype=np.uint32).view(np.float32)
    x[:2048] = near_zero_of_z((2048, 1), 1, np.float32, values, rng)
    x[-6:, 0] = [np.inf, -np.inf, np.nan, 0.0, -0.0, mean]
    with np.errstate(invalid="ignore", over="ignore"):
        passes, grads = relu_gradients(x, np.ones_like(x), 1, values)
    assert grads.dbeta[0] == passes.sum()


@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_relu_in_a_channel_whose_gamma_is_odd(odd):
    rng = np.random.default_rng(3)
    values = statistics(5, rng)
    x = near_zero_of_z((3, 5, 40, 41), 1, np.float32, values, rng)
    values[2][2], values[3][2] = odd, 1.0
    x[0, 2, 0, :3] = np.inf  # times a gamma of zero it is NaN
    passes, grads = relu_gradients(x, np.ones_like(x), 1, values)
    np.testing.assert_array_equal(grads.dbeta, passes.sum((0, 2, 3)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), RELU_SHAPES)
def test_relu_does_not_see_what_it_does_not_pass(shape, axis, dtype):
    """Infinities and NaN in dy where ReLU's output is zero change nothing."""
    rng = np.random.default_rng(1)
    x, dy, residual = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    for added in (None, residual):
        y, ctx = bnfast.batch_norm(x, axis=axis, activation="relu", residual=added)
        off = y == 0
        spoilt = dy.copy()
        spoilt[off] = rng.choice([np.inf, -np.inf, np.nan], off.sum()).astype(dtype)
        got = bnfast.batch_norm_backward(spoilt, ctx)
        assert_same_bits(got, bnfast.batch_norm_backward(dy, ctx))
        assert np.isfinite(got.dx.astype(np.float32)).all()
