"""Sums of gradients: about zero where that is exact enough, centred where it is not."""

import ml_dtypes
import numpy as np
import pytest

import bnfast

# (shape, axis): planes, long planes, rows, short planes and narrow rows that are walked several at
# once.
LAYOUTS = {
    "planes": ((6, 20, 9, 7), 1),
    "long planes": ((2, 3, 80, 70), 1),
    "rows": ((70, 20), 1),
    "channels last": ((5, 6, 7, 20), -1),
    "short planes": ((9, 20, 3, 3), 1),
    "narrow rows": ((90, 5), 1),
}
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def per_channel(values, x, axis):
    shape = [1] * x.ndim
    shape[axis] = -1
    return np.asarray(values).reshape(shape)


def problem(layout, dtype=np.float32, ratios=(0.0, 3.0, 300.0, 0.0, 2000.0), seed=3):
    """x and dy; channel c has the mean ratios[c % 5] and a standard deviation of 1."""
    shape, axis = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    channels = shape[axis]
    means = np.resize(np.asarray(ratios), channels)
    x = rng.standard_normal(shape) + per_channel(means, np.empty(shape), axis)
    return x.astype(dtype), rng.standard_normal(shape).astype(dtype), axis


def exact_sums(x, dy, ctx, axis):
    """sum dy * (x - mean) and sum |dy * (x - mean)| in extended precision."""
    wide = np.longdouble
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    moments = ctx.moments
    centred = x.astype(wide) - per_channel(moments.mean.astype(wide) + moments.mean_low, x, axis)
    products = dy.astype(wide) * centred
    return products.sum(axis=axes), np.abs(products).sum(axis=axes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_are_closer_than_float32_would_be(layout, dtype):
    x, dy, axis = problem(layout, dtype)
    _, ctx = bnfast.batch_norm(x, axis=axis)
    exact, scale = exact_sums(x, dy, ctx, axis)
    error = np.abs(bnfast.batch_norm_backward_sums(dy, ctx).sum_dy_xmu - exact)
    # centred in float32 they would differ by about 2**-24 / sqrt(n), some 1e-9
    assert (error <= 1e-11 * scale).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mean_beyond_the_limit_keeps_the_digits_of_float32(layout):
    x, dy, axis = problem(layout, ratios=(1e6, 0.0, -3e5, 1e5, 2.0))
    _, ctx = bnfast.batch_norm(x, axis=axis)
    exact, scale = exact_sums(x, dy, ctx, axis)
    error = np.abs(bnfast.batch_norm_backward_sums(dy, ctx).sum_dy_xmu - exact)
    assert (error <= 2e-7 * scale).all()


def with_constant_channels(layout, activation, value):
    x, dy, axis = problem(layout)
    constant = x.copy()
    moved = np.moveaxis(constant, axis, 0)
    moved[1::3] = value
    results = []
    for data in (x, constant):
        _, ctx = bnfast.batch_norm(data, axis=axis, activation=activation)
        results.append(bnfast.batch_norm_backward_sums(dy, ctx))
    return results


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_constant_channel_has_exactly_no_projection(layout, activation):
    _, sums = with_constant_channels(layout, activation, np.float32(0.1))
    np.testing.assert_array_equal(sums.sum_dy_xmu[1::3], 0.0)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("value", [0.1, np.nan, np.inf, 3e38])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_channel_does_not_depend_on_how_its_neighbours_are_summed(layout, value, activation):
    alone, mixed = with_constant_channels(layout, activation, np.float32(value))
    others = np.arange(alone.sum_dy.size) % 3 != 1
    np.testing.assert_array_equal(mixed.sum_dy_xmu[others], alone.sum_dy_xmu[others])
    np.testing.assert_array_equal(mixed.sum_dy[others], alone.sum_dy[others])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_ways_of_summing_give_the_same_bits_on_every_target_and_thread_count(layout):
    x, dy, axis = problem(layout, ratios=(1e6, 0.0, 5.0, 1e5, 2.0))
    repeats = -(-70_000 // x.size)
    x, dy = (np.concatenate([a] * repeats) for a in (x, dy))
    results = []
    for target in bnfast.targets():
        for threads in (1, 2, 3):
            with bnfast.use_target(target), bnfast.num_threads(threads):
                _, ctx = bnfast.batch_norm(x, axis=axis)
                results.append(bnfast.batch_norm_backward(dy, ctx))
    for other in results[1:]:
        np.testing.assert_array_equal(other.dx, results[0].dx)


@pytest.mark.parametrize("layout", ["planes", "long planes", "rows", "channels last"])
def test_masked_elements_are_not_summed_about_zero(layout):
    x, dy, axis = problem(layout, ratios=(1e6, 0.0, 5.0))
    rng = np.random.default_rng(5)
    shape = list(x.shape)
    shape[axis] = 1
    where = rng.random(shape) < 0.6
    _, ctx = bnfast.batch_norm(x, axis=axis, where=where)
    expected = bnfast.batch_norm_backward_sums(dy, ctx)
    spoilt_x, spoilt_dy = (np.where(where, a, np.float32(np.nan)) for a in (x, dy))
    _, ctx = bnfast.batch_norm(spoilt_x, axis=axis, where=where)
    sums = bnfast.batch_norm_backward_sums(spoilt_dy, ctx)
    np.testing.assert_array_equal(sums.sum_dy_xmu, expected.sum_dy_xmu)
    exact, scale = exact_sums(np.where(where, x, 0), np.where(where, dy, 0), ctx, axis)
    assert (np.abs(sums.sum_dy_xmu - exact) <= 2e-7 * scale).all()


@pytest.mark.parametrize("layout", ["planes", "rows", "short planes", "narrow rows"])
def test_dropout_and_centred_channels_go_together(layout):
    x, dy, axis = problem(layout, ratios=(1e6, 0.0, 5.0))
    fused, fused_ctx = bnfast.batch_norm(x, axis=axis, activation="relu", dropout=0.3, seed=9)
    y, ctx = bnfast.batch_norm(x, axis=axis, activation="relu")
    dropped, mask = bnfast.dropout(y, 0.3, seed=9)
    np.testing.assert_array_equal(fused, dropped)
    dropped_dy = bnfast.dropout_backward(dy, mask)
    fused_sums = bnfast.batch_norm_backward_sums(dy, fused_ctx)
    sums = bnfast.batch_norm_backward_sums(dropped_dy, ctx)
    np.testing.assert_array_equal(fused_sums.sum_dy_xmu, sums.sum_dy_xmu)
    fused_dx = bnfast.batch_norm_backward(dy, fused_ctx).dx
    np.testing.assert_array_equal(fused_dx, bnfast.batch_norm_backward(dropped_dy, ctx).dx)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_infinite_gradient_gives_an_infinite_sum(layout):
    x, dy, axis = problem(layout)
    dy[(0,) * dy.ndim] = np.inf
    _, ctx = bnfast.batch_norm(x, axis=axis)
    sums = bnfast.batch_norm_backward_sums(dy, ctx)
    assert np.isinf(sums.sum_dy[0]) and np.isinf(sums.sum_dy_xmu[0])
    assert np.isfinite(sums.sum_dy_xmu[1:]).all()


@pytest.mark.parametrize(("ratio", "is_centred"), [(5e4, False), (8e4, True)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_are_centred_from_65536_deviations_on(layout, ratio, is_centred):
    # a standard deviation of 32 leaves x digits that float32 loses when it is centred
    shape, axis = LAYOUTS[layout]
    rng = np.random.default_rng(8)
    x = (32 * (rng.standard_normal(shape) + ratio)).astype(np.float32)
    dy = rng.standard_normal(shape).astype(np.float32)
    _, ctx = bnfast.batch_norm(x, axis=axis)
    exact, scale = exact_sums(x, dy, ctx, axis)
    high = ctx.moments.mean.astype(np.float32)
    low = (ctx.moments.mean - high).astype(np.float32)
    centred = (x - per_channel(high, x, axis)) - per_channel(low, x, axis)
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    rounded = (dy.astype(np.longdouble) * centred).sum(axis=axes)
    got = bnfast.batch_norm_backward_sums(dy, ctx).sum_dy_xmu
    to_exact, to_rounded = (np.abs(got - s) / scale for s in (exact, rounded))
    near, far = (to_rounded, to_exact) if is_centred else (to_exact, to_rounded)
    # of the channels: the ratio of a single one differs from the population's
    assert np.median(near) < 1e-11 < 1e-10 < np.median(far)
