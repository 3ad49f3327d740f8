"""Sums of gradients: the textbook's, to float64 in all layouts, and of parts those of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from borders import THRESHOLDS
from cases import (
    ACTIVATIONS,
    BFLOAT16,
    DTYPES,
    TARGETS,
    assert_near,
    away_from_kinks,
    cases,
    per_channel,
    unit_roundoff,
    z_size,
)
from hypothesis import assume, given, settings

import bnfast

pytestmark = pytest.mark.core


@settings(max_examples=150)
@given(cases())
def test_sums_are_the_textbook(case):
    _, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    _, ref = reference.batch_norm(case.x, case.gamma, case.beta, **case.options)
    assume(away_from_kinks(case, ref))
    sums = bnfast.batch_norm_backward_sums(case.dy, ctx)
    count, sum_dy, sum_dy_xmu = reference.backward_sums(case.dy, ref)
    assert (sums.count == count).all()
    unit = unit_roundoff(case.x.dtype)
    dy = np.where(ref.kept, reference.channels_first(case.dy, case.axis), 0)
    terms = np.abs(dy) * (1.2 + z_size(case, ref))
    assert (np.abs(sums.sum_dy - sum_dy) <= 24 * unit * terms.sum(1)).all()
    bound = 24 * unit * (terms * np.abs(ref.centred)).sum(1) + 1e-300
    assert (np.abs(sums.sum_dy_xmu - sum_dy_xmu) <= bound).all()
    # The sums of the batch itself change nothing.
    plain, given_sums = (bnfast.batch_norm_backward(case.dy, ctx, sums=s) for s in (None, sums))
    assert plain.dx.tobytes() == given_sums.dx.tobytes()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_synchronised_halves_give_the_whole(dtype, activation, masked):
    generator = np.random.default_rng(2)
    whole, dy, residual = generator.normal(1, 2, (3, 12, 5, 7)).astype(dtype)
    gamma, beta = generator.normal(1, 0.3, (2, 5))
    where = generator.random((12, 1, 7)) < 0.7 if masked else None
    options = {"activation": activation}
    _, ctx = bnfast.batch_norm(whole, gamma, beta, residual=residual, where=where, **options)
    want = bnfast.batch_norm_backward(dy, ctx)
    parts = [slice(0, 4), slice(4, 12)]
    masks = [None if where is None else where[part] for part in parts]
    total = sum(
        (bnfast.moments(whole[p], where=w) for p, w in zip(parts, masks, strict=True)),
        start=bnfast.Moments.empty(5),
    )
    contexts = [
        bnfast.batch_norm(
            whole[p], gamma, beta, residual=residual[p], where=w, stats=total, **options
        )[1]
        for p, w in zip(parts, masks, strict=True)
    ]
    sums = sum(
        (bnfast.batch_norm_backward_sums(dy[p], c) for p, c in zip(parts, contexts, strict=True)),
        start=bnfast.GradientSums.empty(5),
    )
    dgamma, dbeta = np.zeros(5), np.zeros(5)
    for part, context in zip(parts, contexts, strict=True):
        grads = bnfast.batch_norm_backward(dy[part], context, sums=sums)
        assert_near(grads.dx, want.dx[part], np.abs(want.dx).max(), units=32)
        assert_near(grads.dresidual, want.dresidual[part], np.abs(want.dresidual).max(), units=32)
        dgamma += grads.dgamma
        dbeta += grads.dbeta
        with pytest.raises(ValueError, match="batch_norm_backward: sums is None, expected"):
            bnfast.batch_norm_backward(dy[part], context)
    assert_near(dgamma.astype(dtype), want.dgamma, np.abs(want.dgamma).max() * 10)
    assert_near(dbeta.astype(dtype), want.dbeta, np.abs(want.dbeta).max() * 10)


# --- about zero, or about the mean ----------------------------------------------------------------

# (shape, axis): those below the thresholds are walked several planes or rows at once.
LAYOUTS = {
    "planes": ((6, 20, THRESHOLDS["short_plane_of_many"] + 13), 1),
    "long planes": ((2, 3, THRESHOLDS["block_elements"] + 1504), 1),
    "rows": ((70, THRESHOLDS["narrow_rows"] + 4), 1),
    "channels last": ((5, 6, 7, THRESHOLDS["narrow_rows"] + 4), -1),
    "short planes": ((9, 20, 3, 3), 1),
    "narrow rows": ((90, 5), 1),
}
NARROW = [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16]


def problem(layout, dtype=np.float32, ratios=(0.0, 3.0, 300.0, 0.0, 2000.0), seed=3):
    """x and dy; channel c has the mean ratios[c % 5] and a standard deviation of 1."""
    shape, axis = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    channels = shape[axis]
    means = np.resize(np.asarray(ratios), channels)
    x = rng.standard_normal(shape) + per_channel(means, len(shape), axis)
    return x.astype(dtype), rng.standard_normal(shape).astype(dtype), axis


def exact_sums(x, dy, ctx, axis):
    """sum dy * (x - mean) and sum |dy * (x - mean)| in extended precision."""
    wide = np.longdouble
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    moments = ctx.moments
    centred = x.astype(wide) - per_channel(
        moments.mean.astype(wide) + moments.mean_low, x.ndim, axis
    )
    products = dy.astype(wide) * centred
    return products.sum(axis=axes), np.abs(products).sum(axis=axes)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_keep_their_digits(layout, dtype):
    x, dy, axis = problem(layout, dtype)
    _, ctx = bnfast.batch_norm(x, axis=axis)
    exact, scale = exact_sums(x, dy, ctx, axis)
    error = np.abs(bnfast.batch_norm_backward_sums(dy, ctx).sum_dy_xmu - exact)
    # With x centred in float32 first, those of float32 would differ by about 2**-24 / sqrt(n), some
    # 1e-9. 16-bit x is centred, and summed in short runs of float32.
    bound = 1e-11 if dtype == np.float32 else 2.0**-20
    assert (error <= bound * scale).all()


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
    for target in TARGETS:
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
    centred = (x - per_channel(high, x.ndim, axis)) - per_channel(low, x.ndim, axis)
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    rounded = (dy.astype(np.longdouble) * centred).sum(axis=axes)
    got = bnfast.batch_norm_backward_sums(dy, ctx).sum_dy_xmu
    to_exact, to_rounded = (np.abs(got - s) / scale for s in (exact, rounded))
    near, far = (to_rounded, to_exact) if is_centred else (to_exact, to_rounded)
    # of the channels: the ratio of a single one differs from the population's
    assert np.median(near) < 1e-11 < 1e-10 < np.median(far)
