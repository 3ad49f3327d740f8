"""Narrow rows and short planes, which are summed and walked several at once."""

from __future__ import annotations

import numpy as np
import pytest
from cases import BFLOAT16, DTYPES, as_view, channel_dtype

import bnfast

# Rows of 2 to 15 channels, planes of 2 to 49 elements: several blocks, leftovers, several strips.
SHAPES = [
    ((2100, 3), -1),
    ((513, 15), -1),
    ((31, 7, 2), -1),
    ((2500, 9, 2), 1),
    ((700, 130, 3, 3), 1),
    ((3, 3000, 5), 1),
    ((1100, 7, 15), 1),
    ((150, 33, 6, 6), 1),
    ((40, 600, 39), 1),
    ((90, 130, 7, 7), 1),
]


def data(shape, axis, dtype, shift):
    """x and dy with another mean and spread in every channel; `shift` in standard deviations."""
    generator = np.random.default_rng(1)
    x, dy = generator.normal(size=(2, *shape))
    along = [-1 if d == axis % len(shape) else 1 for d in range(len(shape))]
    spread = generator.uniform(0.5, 2, shape[axis])
    x = (x + shift) * spread.reshape(along)
    return x.astype(dtype), dy.astype(dtype)


def by_channel(a, axis):
    return np.moveaxis(a.astype(np.longdouble), axis, 0).reshape(a.shape[axis], -1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", range(2, 18))
def test_sums_of_every_short_plane(size, dtype):
    """Of small integers, whose sums are exact in any order."""
    shape = (3, 530, size)
    x, dy = np.random.default_rng(size).integers(-8, 9, (2, *shape)).astype(dtype)
    ones = np.ones(530, channel_dtype(dtype))
    _, ctx = bnfast.batch_norm(x, ones, 0 * ones)
    _, _, dbeta, _ = bnfast.batch_norm_backward(dy, ctx)
    total = x.astype(float).sum((0, 2))
    np.testing.assert_allclose(ctx.moments.mean, total / (3 * size), rtol=1e-15, atol=1e-14)
    np.testing.assert_array_equal(dbeta, dy.astype(float).sum((0, 2)))


@pytest.mark.parametrize("shift", [0, 1e3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_statistics_and_gradients(shape, axis, dtype, shift):
    x, dy = data(shape, axis, dtype, shift)
    gamma = np.linspace(0.5, 2, shape[axis]).astype(channel_dtype(dtype))
    beta = np.zeros_like(gamma)
    y, ctx = bnfast.batch_norm(x, gamma, beta, axis=axis, eps=1e-3)
    dx, dgamma, dbeta, _ = bnfast.batch_norm_backward(dy, ctx)
    wide, wide_dy = by_channel(x, axis), by_channel(dy, axis)
    mean, var = wide.mean(1, keepdims=True), wide.var(1, keepdims=True)
    invstd = 1 / np.sqrt(var + 1e-3)
    tiny = 1e-14 * (1 + shift)
    np.testing.assert_allclose(ctx.moments.mean, mean[:, 0].astype(float), rtol=0, atol=tiny)
    np.testing.assert_allclose(ctx.moments.var(), var[:, 0].astype(float), rtol=1e-11)
    normalised = (wide - mean) * invstd
    want_dgamma, want_dbeta = (wide_dy * normalised).sum(1), wide_dy.sum(1)
    g = gamma.astype(np.longdouble)[:, None]
    want_dx = g * invstd * (wide_dy - wide_dy.mean(1, keepdims=True))
    want_dx -= g * invstd * normalised * (wide_dy * normalised).mean(1, keepdims=True)
    # Of what was computed with (var is good to 1e-12, which shows in float64), and of storing it.
    unit = 2.0**-45 if dtype == np.float64 else 2.0**-21
    stored = {np.dtype(np.float16): 2.0**-11, BFLOAT16: 2.0**-8}.get(dtype, 0.0)
    size = np.abs(normalised).max() * np.abs(wide_dy).max() * 4
    for got, want, scale, rounding in (
        (by_channel(y, axis), g * normalised, np.abs(normalised).max() * 2, stored),
        (by_channel(dx, axis), want_dx, size * (g * invstd).max(), stored),
        (dgamma, want_dgamma, np.abs(wide_dy * normalised).sum(1).max(), 0),
        (dbeta, want_dbeta, np.abs(wide_dy).sum(1).max(), 0),
    ):
        np.testing.assert_allclose(
            np.asarray(got, float), want.astype(float), rtol=rounding, atol=float(unit * scale)
        )


def float64_of(arguments):
    """The same arguments for a computation in float64."""
    arrays = ("residual", "gamma", "beta")
    return {k: v.astype(float) if k in arrays else v for k, v in arguments.items()}


@pytest.mark.parametrize("kind", ["residual", "frozen", "in place", "tiny", "huge", "where"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_options_beside_the_float64_kernels(shape, axis, kind):
    """float64 has no prescale and other coefficients, and is tested against the textbook above."""
    scale = {"tiny": 2.0**-110, "huge": 2.0**110}.get(kind, 1.0)
    x, dy = (
        a * np.float32(s) for a, s in zip(data(shape, axis, np.float32, 1), (scale, 1), strict=True)
    )
    generator = np.random.default_rng(2)
    gamma, beta = generator.uniform(0.5, 2, (2, shape[axis])).astype(np.float32)
    options = {"axis": axis, "gamma": gamma, "beta": beta, "activation": "silu", "eps": 0.0}
    if kind == "residual":
        options["residual"] = generator.normal(size=shape).astype(np.float32)
    if kind == "where":
        options["where"] = generator.random(shape[:1] + (1,) * (len(shape) - 1)) < 0.7
    if kind == "in place":
        options |= {"activation": "leaky_relu", "activation_slope": 0.5}
    results = []
    for a, b, arguments in (
        (x, dy, options),
        (x.astype(float), dy.astype(float), float64_of(options)),
    ):
        if kind == "frozen":
            statistics = np.linspace(0.5, 2, 2 * shape[axis]).reshape(2, -1)
            y, ctx = bnfast.batch_norm_frozen(a, *statistics, **arguments)
        else:
            y, ctx = bnfast.batch_norm(a, **arguments, out=a if kind == "in place" else None)
        y = y.copy()
        results.append((y, *bnfast.batch_norm_backward(b, ctx)))
    for got, want in zip(*results, strict=True):
        if got is None:
            assert want is None
            continue
        np.testing.assert_allclose(got, want, rtol=0, atol=2.0**-19 * np.abs(want).max() * 8)


@pytest.mark.parametrize("view", ["strided", "unaligned", "F"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_other_memory_gives_the_same_bits(shape, axis, dtype, view):
    """What is not dense is packed first, and summed in the same order ("F": in that of memory)."""
    x, dy = data(shape, axis, dtype, 3)
    other_x, other_dy = as_view(x, view), as_view(dy, view)
    if view == "F":
        x, dy = other_x.copy(order="K"), other_dy.copy(order="K")
        other_x, other_dy = (as_view(a.T, "strided").T for a in (x, dy))
    affine = np.linspace(-1, 2, 2 * shape[axis]).reshape(2, -1)
    y, ctx = bnfast.batch_norm(x, *affine, axis=axis, activation="relu")
    other_y, other_ctx = bnfast.batch_norm(other_x, *affine, axis=axis, activation="relu")
    assert other_y.tobytes() == y.tobytes()
    assert other_ctx.moments.to_bytes() == ctx.moments.to_bytes()
    for got, want in zip(
        bnfast.batch_norm_backward(other_dy, other_ctx)[:3],
        bnfast.batch_norm_backward(dy, ctx)[:3],
        strict=True,
    ):
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_inf_and_nan_stay_in_their_channel(shape, axis):
    """Neighbours share vectors, and the elements beyond the last one take no part."""
    x, dy = data(shape, axis, np.float32, 1)
    affine = np.ones((2, shape[axis]))
    want_y, want_ctx = bnfast.batch_norm(x, *affine, axis=axis)
    want = bnfast.batch_norm_backward(dy, want_ctx)
    bad = shape[axis] // 2
    for value in (np.inf, np.nan):
        spoiled = x.copy()
        np.moveaxis(spoiled, axis, 0)[bad].flat[-1] = value
        y, ctx = bnfast.batch_norm(spoiled, *affine, axis=axis)
        grads = bnfast.batch_norm_backward(dy, ctx)
        keep = np.arange(shape[axis]) != bad
        assert not np.isfinite(ctx.mean[bad])
        for got, expected in ((y, want_y), (grads.dx, want.dx)):
            got, expected = (np.moveaxis(a, axis, 0)[keep] for a in (got, expected))
            np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(grads.dgamma[keep], want.dgamma[keep])
        np.testing.assert_array_equal(grads.dbeta[keep], want.dbeta[keep])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("activation", [None, "relu", "elu"])
@pytest.mark.parametrize(("shape", "axis"), [*SHAPES, ((9, 64, 7, 7), 1), ((70, 41, 6, 8), 1)])
def test_dropout_is_that_of_separate_calls(shape, axis, activation, threads):
    """Several runs of the mask belong to one walk; their bits are kept for dx, or made again."""
    x, dy = data(shape, axis, np.float32, 1)
    options = {"axis": axis, "activation": activation}
    with bnfast.num_threads(threads):
        y, ctx = bnfast.batch_norm(x, **options, dropout=0.3, seed=5)
        grads = bnfast.batch_norm_backward(dy, ctx)
        plain, plain_ctx = bnfast.batch_norm(x, **options)
        want, mask = bnfast.dropout(plain, 0.3, seed=5)
        want_grads = bnfast.batch_norm_backward(bnfast.dropout_backward(dy, mask), plain_ctx)
    np.testing.assert_array_equal(y, want)
    for got, expected in zip(grads[:3], want_grads[:3], strict=True):
        np.testing.assert_array_equal(got, expected)
