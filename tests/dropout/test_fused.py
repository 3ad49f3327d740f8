"""Batch norm and dropout in one pass are those of separate calls, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
from cases import ACTIVATIONS, DTYPES, as_view, assert_same_bits, numbers

import bnfast

pytestmark = pytest.mark.core

SHAPES = [
    *(((6, 5, 7, 9), 1), ((33, 40), 1), ((4, 3, 1500), 1), ((300, 17), -1), ((2, 9, 9, 30), 3)),
    *(((530, 3), 1), ((30, 50, 3), 1)),
]


def assert_fused_is_separate(x, dy, rate, **arguments):
    """The fused call against batch_norm, then dropout: forward and backward."""
    seed, offset = 2**63 + 5, 2**40 + 1
    channels = x.shape[arguments["axis"]]
    gamma, beta = np.random.default_rng(2).normal(1, 0.3, (2, channels))
    y, ctx = bnfast.batch_norm(x, gamma, beta, dropout=rate, seed=seed, offset=offset, **arguments)
    grads = bnfast.batch_norm_backward(dy, ctx)

    before, plain = bnfast.batch_norm(x, gamma, beta, **arguments)
    after, dropped = bnfast.dropout(before, rate, seed=seed, offset=offset)
    between = bnfast.dropout_backward(dy, dropped)
    want = [after, *bnfast.batch_norm_backward(between, plain)]
    assert (ctx.seed, ctx.offset) == (seed, offset)
    assert ctx.moments == plain.moments
    if x.dtype.itemsize > 2:
        assert_same_bits([y, *grads], want)
    else:  # the separate calls round to 16 bits in between
        for a, b in zip([y, *grads], want, strict=True):
            if a is not None:
                a, b = a.astype(np.float64), b.astype(np.float64)
                np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02 * max(1.0, np.abs(b).max()))
    if 0 < rate < 1 and y.size > 1000 and "where" not in arguments:
        mask = bnfast.dropout_mask(x.shape, rate, seed=seed, offset=offset)
        assert np.all(y[~mask] == 0) and np.any(y[mask] != 0)
        if not mask.all():  # x there still moves mean and var
            assert np.any(grads.dx[~mask] != 0)
        assert grads.dresidual is None or np.all(grads.dresidual[~mask] == 0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_every_activation_and_dtype(shape, axis, activation):
    for k, dtype in enumerate(DTYPES):
        residual = numbers(shape, dtype, 2) if k % 2 else None
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        options = {"axis": axis, "activation": activation, "residual": residual}
        assert_fused_is_separate(x, dy, 0.3, **options)


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_every_rate(shape, axis, rate):
    for dtype in DTYPES[:2]:
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        assert_fused_is_separate(x, dy, rate, axis=axis, activation="relu")


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_where(shape, axis):
    """What `where` leaves out is 0 and takes no part, whatever the mask says."""
    broadcast = [1 if d == axis % len(shape) else n for d, n in enumerate(shape)]
    where = np.random.default_rng(5).random(broadcast) < 0.7
    for dtype in DTYPES[:2]:
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        assert_fused_is_separate(x, dy, 0.4, axis=axis, activation="silu", where=where)


@pytest.mark.parametrize("view", ["strided", "negative", "unaligned"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_views(shape, axis, view):
    for dtype in DTYPES[:2]:
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        assert_fused_is_separate(as_view(x, view), dy, 0.5, axis=axis, activation="tanh")
        assert_fused_is_separate(x, as_view(dy, view), 0.5, axis=axis, activation="tanh")


@pytest.mark.parametrize("view", ["F", "channels_last"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_the_mask_goes_by_logical_index(shape, axis, view):
    """Whatever the order of x in memory, element i is the i-th in C order of the shape."""
    arguments = {"axis": axis, "dropout": 0.5, "seed": 3, "offset": 1}
    mask = bnfast.dropout_mask(shape, 0.5, seed=3, offset=1)
    for dtype in DTYPES:
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        y, ctx = bnfast.batch_norm(x, **arguments)
        grads = bnfast.batch_norm_backward(dy, ctx)
        got, ctx = bnfast.batch_norm(as_view(x, view), **arguments)
        other = bnfast.batch_norm_backward(as_view(dy, view), ctx)
        np.testing.assert_array_equal(got[~mask], 0)
        assert np.count_nonzero(got) > 0.99 * mask.sum()
        near = {"rtol": 0.02, "atol": 0.02} if y.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-5}
        for a, b in ((got, y), (other.dx, grads.dx)):
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), **near)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", ["channels_last", "F", "strided"])
def test_another_layout_has_the_statistics_and_mask_of_its_own(view, dtype):
    x = as_view(numbers((6, 8, 5, 7), dtype), view)
    y, ctx = bnfast.batch_norm(x, dropout=0.5, seed=1)
    assert ctx.moments == bnfast.moments(x)
    if dtype.itemsize > 2:
        plain, _ = bnfast.batch_norm(x)
        assert np.array_equal(y, bnfast.dropout(plain, 0.5, seed=1)[0])


def test_sums_of_a_synchronised_batch_know_the_mask():
    x, dy = numbers((64, 5), np.float64), numbers((64, 5), np.float64, 1)
    whole, ctx = bnfast.batch_norm(x, dropout=0.5, seed=1)
    want = bnfast.batch_norm_backward(dy, ctx)
    sums = bnfast.batch_norm_backward_sums(dy, ctx)
    kept = np.where(whole != 0, 2 * dy, 0)
    np.testing.assert_allclose(sums.sum_dy, kept.sum(0), rtol=1e-12)
    np.testing.assert_array_equal(bnfast.batch_norm_backward(dy, ctx, sums=sums).dx, want.dx)


def test_seeds_and_offsets():
    x = numbers((50, 4))
    _, ctx = bnfast.batch_norm(x, dropout=0.5)
    assert type(ctx.seed) is int and 0 <= ctx.seed < 2**64 and ctx.offset == 0
    assert bnfast.batch_norm(x, dropout=0.5)[1].seed != ctx.seed
    again, _ = bnfast.batch_norm(x, dropout=0.5, seed=ctx.seed)
    other, _ = bnfast.batch_norm(x, dropout=0.5, seed=ctx.seed, offset=1)
    assert not np.array_equal(again, other)
    drawn = [
        bnfast.batch_norm(x, dropout=0.5, seed=np.random.default_rng(3))[1].seed for _ in range(2)
    ]
    assert drawn[0] == drawn[1] == bnfast.dropout(x, seed=np.random.default_rng(3))[1].seed
