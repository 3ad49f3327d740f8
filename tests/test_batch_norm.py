"""The training-mode forward pass against the textbook: shapes, dtypes, views, options, edges."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import (
    ACTIVATIONS,
    BFLOAT16,
    DTYPES,
    VIEWS,
    Case,
    as_view,
    assert_near,
    cases,
    channel_dtype,
    spread,
    z_size,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfast


def check_forward(case: Case, out: np.ndarray | None = None) -> None:
    before = case.x.tobytes()
    y, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, out=out, **case.options)
    want, ref = reference.batch_norm(case.x, case.gamma, case.beta, **case.options)
    assert y.dtype == case.x.dtype and y.shape == case.x.shape
    assert out is None or y is out
    assert_near(y, want, np.abs(want) + 1.2 * spread(z_size(case, ref), case.x, case.axis))
    assert case.x.tobytes() == before

    count, mean, var = reference.moments(case.x, axis=case.axis, where=case.options.get("where"))
    assert (ctx.moments.count == count).all()
    for got in (ctx.mean, ctx.var, ctx.invstd):
        assert got.dtype == channel_dtype(case.x.dtype)
    if count == 0:
        assert not ctx.moments.mean.any() and not ctx.moments.m2.any()
        return
    largest = np.abs(mean) + np.sqrt(var)
    assert_near(ctx.moments.mean, mean, largest)
    assert_near(ctx.moments.var(), var, var, units=1e4)
    assert_near(ctx.mean, mean, largest)
    assert_near(ctx.var, var, var, units=1e4 if case.x.dtype == np.float64 else 2)
    assert_near(ctx.invstd, ref.invstd[:, 0], ref.invstd[:, 0], units=1e4)


@settings(max_examples=400)
@given(cases())
def test_forward_is_the_textbook(case):
    check_forward(case)


@settings(max_examples=150)
@given(cases(), st.sampled_from([view for view in VIEWS if view != "broadcast"]))
def test_out_of_any_strides(case, view):
    out = as_view(np.full(case.x.shape, 55, case.x.dtype), view)
    check_forward(case, out)
    if view == "strided" and out.size:
        assert (out.base == 77).sum() >= out.base.size - out.size  # nothing between was written


LARGE = [
    ((3, 4, 9001), 1),  # planes of several blocks
    ((300, 5, 31), 1),  # blocks of several planes
    ((2, 3, 64, 64), 1),
    ((3000, 70), 1),  # rows of several blocks
    ((700, 3), -1),
    ((5, 7, 900), -1),
    ((9, 4000), 0),
    ((1, 5000), 1),
    ((20000,), 0),
    ((40, 1, 300), 1),  # one channel
]


@pytest.mark.parametrize(("shape", "axis"), LARGE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large(shape, axis, dtype, target):
    generator = np.random.default_rng(len(shape))
    x, residual = (generator.normal(3, 2, shape).astype(dtype) for _ in range(2))
    gamma, beta = generator.normal(1, 0.5, (2, shape[axis])).astype(np.float32)
    where_shape = [n if i != axis % len(shape) else 1 for i, n in enumerate(shape)]
    options = {"axis": axis, "residual": residual, "activation": "gelu"}
    check_forward(Case(x, x, gamma, beta, options))
    where = generator.random(where_shape) < 0.7
    poisoned = np.where(where, x, np.array(np.nan, dtype))
    check_forward(Case(poisoned, x, gamma, None, {**options, "where": where}))


@settings(max_examples=150)
@given(cases())
def test_own_moments_as_stats_change_nothing(case):
    y, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    where = case.options.get("where")
    moments = bnfast.moments(case.x, axis=case.axis, where=where)
    assert moments == ctx.moments
    assert moments.to_bytes() == ctx.moments.to_bytes()
    again, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, stats=moments, **case.options)
    assert again.tobytes() == y.tobytes()
    assert ctx.moments == moments


@pytest.mark.parametrize(("shape", "axis"), [*LARGE, ((64, 48, 28, 28), 1), ((40000, 24), 1)])
def test_own_moments_as_stats_change_nothing_when_large(shape, axis):
    x = np.random.default_rng(0).normal(5, 1, shape).astype(np.float32)
    y, ctx = bnfast.batch_norm(x, axis=axis)
    moments = bnfast.moments(x, axis=axis)
    assert moments == ctx.moments
    assert bnfast.batch_norm(x, axis=axis, stats=moments)[0].tobytes() == y.tobytes()


def test_stats_of_a_larger_batch():
    generator = np.random.default_rng(1)
    whole = generator.normal(2, 3, (10, 3, 8)).astype(np.float32)
    parts = np.split(whole, [4])
    total = bnfast.moments(parts[0]) + bnfast.moments(parts[1])
    want = reference.batch_norm(whole)[0]
    for part, wanted in zip(parts, np.split(want, [4]), strict=True):
        y, ctx = bnfast.batch_norm(part, stats=total)
        assert_near(y, wanted, np.abs(wanted) + 1)
        assert ctx.moments == total


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "shape", [(0, 3), (0, 3, 5), (4, 3, 0), (2, 0), (2, 0, 5), (0, 0), (0, 1), (4, 1, 0)]
)
def test_empty(shape, activation, dtype):
    x = np.zeros(shape, dtype)
    gamma = beta = np.ones(shape[1], np.float32)
    y, ctx = bnfast.batch_norm(x, gamma, beta, activation=activation, residual=x)
    assert y.shape == shape and y.dtype == dtype
    assert ctx.moments == bnfast.Moments.empty(shape[1]) or x.shape[1] == 0
    assert ctx.moments == bnfast.moments(x)
    grads = bnfast.batch_norm_backward(x, ctx)
    assert grads.dx.shape == grads.dresidual.shape == shape
    np.testing.assert_array_equal(grads.dgamma, np.zeros(shape[1]))
    np.testing.assert_array_equal(grads.dbeta, np.zeros(shape[1]))
    assert bnfast.batch_norm_inference(x, np.zeros(shape[1]), np.ones(shape[1])).shape == shape


def test_empty_slice_of_planes():
    x = np.zeros((4, 3, 8), np.float32)[:, :, :0]
    y, ctx = bnfast.batch_norm(x, np.ones(3), np.ones(3))
    assert y.shape == bnfast.batch_norm_backward(x, ctx).dx.shape == x.shape
    assert ctx.moments == bnfast.moments(x) == bnfast.Moments.empty(3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_where_that_keeps_nothing(dtype):
    x = np.full((6, 3), np.nan, dtype)
    y, ctx = bnfast.batch_norm(x, where=np.zeros(6, bool), gamma=np.ones(3), beta=np.ones(3))
    assert not y.any() and ctx.moments == bnfast.Moments.empty(3)
    grads = bnfast.batch_norm_backward(x, ctx)
    assert not grads.dx.any() and not grads.dgamma.any() and not grads.dbeta.any()


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_value_a_channel(activation, dtype, eps):
    generator = np.random.default_rng(2)
    x, residual = generator.normal(size=(2, 1, 33)).astype(dtype)
    beta = generator.normal(size=33).astype(np.float32)
    y, ctx = bnfast.batch_norm(x, None, beta, residual=residual, activation=activation, eps=eps)
    assert not ctx.var.any()
    z = beta.astype(reference.Wide) + residual.astype(reference.Wide)
    want = reference.activate(z, activation)[0]
    assert_near(y, want, np.abs(beta) + np.abs(residual.astype(np.float32)), units=4)


@pytest.mark.parametrize("where", ["removed", "length 1", "trailing", "0-d"])
def test_where_broadcasts_like_numpy(where):
    x = np.random.default_rng(3).normal(size=(4, 3, 5)).astype(np.float32)
    masks = {
        "removed": np.arange(20).reshape(4, 5) % 3 > 0,
        "length 1": (np.arange(4) != 2).reshape(4, 1, 1),
        "trailing": np.arange(5) != 1,
        "0-d": np.array(True),
    }
    mask = masks[where]
    y, _ = bnfast.batch_norm(x, where=mask)
    want, _ = reference.batch_norm(x, where=mask)
    assert_near(y, want, 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_outputs_have_the_memory_order_of_x(order, axis, dtype):
    shape = (3, 4, 5, 6)
    generator = np.random.default_rng(4)
    memory = generator.normal(size=[shape[d] for d in order]).astype(dtype)
    x = memory.transpose(np.argsort(order))
    assert x.shape == shape
    y, ctx = bnfast.batch_norm(x, axis=axis, residual=x)
    grads = bnfast.batch_norm_backward(np.ascontiguousarray(x), ctx)
    y2 = bnfast.batch_norm_inference(x, *np.ones((2, shape[axis])), axis=axis)
    for output in (y, grads.dx, grads.dresidual, y2):
        assert output.strides == x.strides
    every_second = x[::2, ::2, ::2, ::2]
    dense = np.empty_like(every_second, order="K")
    assert bnfast.batch_norm(every_second, axis=axis)[0].strides == dense.strides


def test_nan_stays_in_its_channel():
    x = np.random.default_rng(5).normal(size=(50, 20)).astype(np.float32)
    x[7, 3] = np.nan
    for data, axis in ((x, 1), (np.ascontiguousarray(x.T), 0)):
        y, _ = bnfast.batch_norm(data, axis=axis, activation="relu")
        nan = np.isnan(np.moveaxis(y, axis, 1))
        assert nan[:, 3].all() and nan.sum() == 50


def test_parameters_of_either_precision_and_any_stride():
    x = np.random.default_rng(6).normal(size=(30, 6)).astype(BFLOAT16)
    gamma = np.linspace(0.5, 2, 6).astype(np.float32)
    want = bnfast.batch_norm(x, gamma, gamma)[0].tobytes()
    for other in (gamma.astype(np.float64), np.repeat(gamma, 3)[1::3], gamma[::-1].copy()[::-1]):
        assert bnfast.batch_norm(x, other, other)[0].tobytes() == want


def test_ctx_tells_infinite_var_where_float32_ends():
    x = np.array([[-3e38], [3e38]], np.float32)
    y, ctx = bnfast.batch_norm(x)
    assert np.isposinf(ctx.var) and np.isfinite(ctx.moments.m2)
    np.testing.assert_array_equal(y, [[-1], [1]])
