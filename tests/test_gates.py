"""ReLU's backward: gradients pass exactly where forward's z, as it is computed, is above zero."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import bnfast

NARROW = [np.float32, np.float16, ml_dtypes.bfloat16]
# Long channels, for which it is told from x, and short ones, for which z is computed again.
SHAPES = [
    ((3, 5, 37, 41), 1),
    ((48, 19, 7, 7), 1),
    ((1100, 6, 2), 1),
    ((2309, 33), -1),
    ((4100, 3), -1),
    ((40, 33), -1),
]


def statistics(channels, rng):
    """Means, variances, gamma of both signs and beta, of many magnitudes."""
    scale = 10.0 ** rng.integers(-3, 4, channels)
    mean, var = rng.standard_normal(channels) * scale, rng.uniform(0.5, 2, channels) * scale**2
    gamma = rng.standard_normal(channels) * 10.0 ** rng.integers(-3, 4, channels)
    return mean, var, gamma, rng.standard_normal(channels)


def near_zero_of_z(shape, axis, dtype, mean, var, gamma, beta, rng):
    """Inputs of which most make z zero but for a few roundings, and some are anywhere."""
    wide = (-1 if k == axis % len(shape) else 1 for k in range(len(shape)))
    mean, std, gamma, beta = (
        a.reshape(sides) for sides in [tuple(wide)] for a in (mean, np.sqrt(var), gamma, beta)
    )
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        root = mean - beta * std / gamma
        rounding = np.finfo(np.float32 if dtype is np.float32 else np.float16).eps
        steps = rng.integers(-4, 5, shape) * rounding
        x = root + (np.abs(root) + np.abs(mean) + std) * steps
        anywhere = mean + std * rng.standard_normal(shape)
        return np.where(rng.random(shape) < 0.2, anywhere, x).astype(dtype)


def passes(x, axis, *args):
    """Where forward's z is above zero: its result in float32, which does not round it to zero."""
    mean, var, gamma, beta = args
    y = bnfast.batch_norm_inference(
        x.astype(np.float32), mean, var, gamma, beta, axis=axis, eps=0.0, activation="relu"
    )
    return y > 0


def gradients(x, dy, axis, *args):
    mean, var, gamma, beta = args
    _, ctx = bnfast.batch_norm_frozen(
        x, mean, var, gamma, beta, axis=axis, eps=0.0, activation="relu"
    )
    return bnfast.batch_norm_backward(dy, ctx)


def reduced(a, axis):
    return a.sum(axis=tuple(k for k in range(a.ndim) if k != axis % a.ndim), dtype=np.float64)


@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_gradients_pass_where_z_is_positive(shape, axis, dtype):
    rng = np.random.default_rng(len(shape))
    args = statistics(shape[axis], rng)
    x = near_zero_of_z(shape, axis, dtype, *args, rng)
    on = passes(x, axis, *args)
    assert 0.2 < on.mean() < 0.8
    dy = rng.integers(1, 9, shape).astype(dtype)  # whose sums are exact
    grads = gradients(x, dy, axis, *args)
    np.testing.assert_array_equal(grads.dbeta, reduced(np.where(on, dy, 0), axis))
    if dtype is np.float32:
        np.testing.assert_array_equal(grads.dx != 0, on)


def bits_to_float32(bits):
    return float(np.array(bits, np.uint32).view(np.float32))


FINITE = st.integers(0, 2**32 - 1).map(bits_to_float32).filter(np.isfinite)


@settings(max_examples=200)
@given(FINITE, FINITE.filter(lambda a: a != 0), FINITE, st.randoms(use_true_random=False))
@example(0.0, 1.0, -0.0, None)
@example(0.0, -1.0, 0.0, None)
@example(1.0, -1.0, 3.0e38, None)
@example(-3.0e38, 2.0, 1.0, None)
def test_any_coefficients(mean, gamma, beta, random):
    """Every finite mean, gamma and beta, and every x, infinities and NaN included."""
    rng = np.random.default_rng(None if random is None else random.getrandbits(32))
    args = [np.array([a]) for a in (mean, 1.0, gamma, beta)]
    x = rng.integers(0, 2**32, (4096, 1), dtype=np.uint32).view(np.float32)
    near = near_zero_of_z((2048, 1), 1, np.float32, *args, rng)
    x[:2048] = np.where(np.isfinite(near), near, 0)
    x[-6:, 0] = [np.inf, -np.inf, np.nan, 0.0, -0.0, mean]
    with np.errstate(invalid="ignore", over="ignore"):
        on = passes(x, 1, *args)
    grads = gradients(x, np.ones_like(x), 1, *args)
    assert grads.dbeta[0] == on.sum()


@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_a_channel_without_a_gate(odd):
    rng = np.random.default_rng(3)
    mean, var, gamma, beta = statistics(5, rng)
    gamma[2], beta[2] = odd, 1.0
    x = near_zero_of_z((3, 5, 40, 41), 1, np.float32, mean, var, gamma, beta, rng)
    x[:, 2] = rng.standard_normal((3, 40, 41))
    x[0, 2, 0, :3] = np.inf  # times a gamma of zero it is NaN
    on = passes(x, 1, mean, var, gamma, beta)
    grads = gradients(x, np.ones_like(x), 1, mean, var, gamma, beta)
    np.testing.assert_array_equal(grads.dbeta, reduced(on, 1))


@pytest.mark.parametrize("dtype", [*NARROW, np.float64], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("with_residual", [False, True])
def test_what_does_not_pass_is_not_seen(shape, axis, dtype, with_residual):
    """Infinities and NaN in dy where ReLU's output is zero change nothing."""
    rng = np.random.default_rng(1)
    x, dy, residual = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    y, ctx = bnfast.batch_norm(
        x, axis=axis, activation="relu", residual=residual if with_residual else None
    )
    off = y == 0
    spoilt = dy.copy()
    spoilt[off] = rng.choice([np.inf, -np.inf, np.nan], off.sum()).astype(dtype)
    want, got = (bnfast.batch_norm_backward(a, ctx) for a in (dy, spoilt))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(got.dx.astype(np.float32)).all()


# Channels that threads share: in whole planes or in parts, long and short ones (of which the last
# has fewer elements an outer index than bits are made at once).
SHARED = [
    (24, 2, 130, 130),
    (24, 1, 130, 130),
    (24, 2, 128, 128),
    (9, 1, 300, 301),
    (3000, 60, 5, 5),
    (2000, 3, 5, 5),
]


@pytest.mark.parametrize("shape", SHARED)
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_kept_bits_of_planes_that_threads_share(shape, threads):
    """The second sweep of all threads reads the bits that the first one made."""
    rng = np.random.default_rng(7)
    x, dy = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    with bnfast.num_threads(threads):
        y, ctx = bnfast.batch_norm(x, activation="relu", dropout=0.4, seed=11)
        grads = bnfast.batch_norm_backward(dy, ctx)
    plain, plain_ctx = bnfast.batch_norm(x, activation="relu")
    want, mask = bnfast.dropout(plain, 0.4, seed=11)
    want_grads = bnfast.batch_norm_backward(bnfast.dropout_backward(dy, mask), plain_ctx)
    np.testing.assert_array_equal(y, want)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_array_equal(a, b)
