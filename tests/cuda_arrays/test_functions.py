"""Arrays on GPUs go through every function, and results are arrays of their library there."""

from __future__ import annotations

import numpy as np
import pytest

import bnfast
from cuda_arrays.device import Array

pytestmark = pytest.mark.core


def values(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def same(result, expected):
    assert type(result) is Array
    assert result.index == 0
    assert result.dtype == expected.dtype
    assert result.array.strides == expected.strides
    np.testing.assert_array_equal(result.array, expected)


@pytest.fixture(params=[np.float32, np.float64, np.float16], ids=str)
def case(request):
    dtype = request.param
    x, dy, residual = (values((5, 6, 7), seed, dtype) for seed in range(3))
    gamma, beta = values(6, 3), values(6, 4)
    return x, dy, residual, gamma, beta


def on_gpu(*arrays):
    return tuple(Array(a) for a in arrays)


def test_batch_norm_forward_and_backward(case):
    x, dy, residual, gamma, beta = case
    options = {"activation": "silu", "dropout": 0.25, "seed": 3}
    y, ctx = bnfast.batch_norm(x, gamma, beta, residual=residual, **options)
    grads = bnfast.batch_norm_backward(dy, ctx)
    x_, dy_, residual_, gamma_, beta_ = on_gpu(*case)
    y_, ctx_ = bnfast.batch_norm(x_, gamma_, beta_, residual=residual_, **options)
    same(y_, y)
    for name in ("mean", "var", "invstd"):
        same(getattr(ctx_, name), getattr(ctx, name))
    for result, expected in zip(bnfast.batch_norm_backward(dy_, ctx_), grads, strict=True):
        same(result, expected)
    for name in ("count", "mean", "m2"):
        np.testing.assert_array_equal(getattr(ctx_.moments, name), getattr(ctx.moments, name))


def test_inference_frozen_moments_and_sums(case):
    x, dy, _, gamma, beta = case
    mean, var = values(6, 5), values(6, 6) ** 2
    where = values((5, 7), 7) > 0
    x_, dy_, gamma_, beta_, mean_, var_, where_ = on_gpu(x, dy, gamma, beta, mean, var, where)
    expected = bnfast.batch_norm_inference(x, mean, var, gamma, beta)
    same(bnfast.batch_norm_inference(x_, mean_, var_, gamma_, beta_), expected)
    y, ctx = bnfast.batch_norm_frozen(x, mean, var, gamma, beta)
    y_, ctx_ = bnfast.batch_norm_frozen(x_, mean_, var_, gamma_, beta_)
    same(y_, y)
    same(bnfast.batch_norm_backward(dy_, ctx_).dx, bnfast.batch_norm_backward(dy, ctx).dx)
    moments, moments_ = bnfast.moments(x, where=where), bnfast.moments(x_, where=where_)
    np.testing.assert_array_equal(moments_.m2, moments.m2)
    sums = bnfast.batch_norm_backward_sums(dy, bnfast.batch_norm(x, where=where, stats=moments)[1])
    ctx_ = bnfast.batch_norm(x_, where=where_, stats=moments)[1]
    sums_ = bnfast.batch_norm_backward_sums(dy_, ctx_)
    np.testing.assert_array_equal(sums_.sum_dy_xmu, sums.sum_dy_xmu)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (bnfast.instance_norm, {}),
        (bnfast.group_norm, {"num_groups": 3}),
        (bnfast.layer_norm, {"axis": (1, 2), "dropout": 0.5, "seed": 2}),
        (bnfast.rms_norm, {"axis": -1}),
    ],
)
def test_norms_of_a_sample(case, function, options):
    x, dy, residual = case[:3]
    y, ctx = function(x, residual=residual, **options)
    x_, dy_, residual_ = on_gpu(x, dy, residual)
    y_, ctx_ = function(x_, residual=residual_, **options)
    same(y_, y)
    same(ctx_.var, ctx.var)
    grads, grads_ = bnfast.norm_backward(dy, ctx), bnfast.norm_backward(dy_, ctx_)
    same(grads_.dx, grads.dx)
    same(grads_.dresidual, grads.dresidual)


def test_dropout(case):
    x, dy = case[:2]
    y, ctx = bnfast.dropout(x, 0.4, seed=9)
    y_, ctx_ = bnfast.dropout(Array(x), 0.4, seed=9)
    same(y_, y)
    same(bnfast.dropout_backward(Array(dy), ctx_), bnfast.dropout_backward(dy, ctx))


def test_orders_of_memory_and_empty_arrays():
    x = np.moveaxis(values((4, 5, 6)), -1, 1)
    same(bnfast.batch_norm(Array(x))[0], bnfast.batch_norm(x)[0])
    empty = values((0, 3))
    same(bnfast.layer_norm(Array(empty))[0], bnfast.layer_norm(empty)[0])


def test_out_is_written():
    x = values((8, 3))
    x_, out = on_gpu(x, np.empty_like(x))
    assert bnfast.batch_norm(x_, out=out)[0] is out
    np.testing.assert_array_equal(out.array, bnfast.batch_norm(x)[0])


def test_parameters_of_numpy_are_copied_to_the_device():
    x, gamma, beta = values((5, 6, 7)), values(12)[::2], values(6, dtype=np.float64)
    mean, var = values(6, 1), values(6, 2) ** 2
    same(bnfast.batch_norm(Array(x), gamma, beta)[0], bnfast.batch_norm(x, gamma, beta)[0])
    expected = bnfast.batch_norm_inference(x, mean, var, gamma, beta)
    same(bnfast.batch_norm_inference(Array(x), mean, var, gamma, beta), expected)
    wide = values((7, 6)).T
    expected = bnfast.layer_norm(x, wide, axis=(1, 2))[0]
    same(bnfast.layer_norm(Array(x), wide, axis=(1, 2))[0], expected)


def test_other_arrays_of_numpy_are_refused():
    x = values((5, 6))
    with pytest.raises(ValueError, match=r"^batch_norm: residual is on cpu:0, expected cuda:0"):
        bnfast.batch_norm(Array(x), residual=x)
    with pytest.raises(ValueError, match=r"^batch_norm: where is on cpu:0, expected cuda:0"):
        bnfast.batch_norm(Array(x), where=np.ones(5, bool))
    with pytest.raises(ValueError, match=r"^batch_norm: out is on cpu:0, expected cuda:0"):
        bnfast.batch_norm(Array(x), out=x.copy())
    with pytest.raises(ValueError, match=r"^batch_norm: gamma is on cuda:1, expected cuda:0"):
        bnfast.batch_norm(Array(x), Array(values(6), index=1))
    with pytest.raises(ValueError, match=r"^batch_norm: gamma is on cuda:0, expected cpu:0"):
        bnfast.batch_norm(x, Array(values(6)))
    ctx = bnfast.batch_norm(Array(x))[1]
    with pytest.raises(ValueError, match=r"^batch_norm_backward: dy is on cpu:0, expected cuda:0"):
        bnfast.batch_norm_backward(x, ctx)
    ctx.set_arrays(x)
    with pytest.raises(ValueError, match=r"_backward: x is on cpu:0, expected cuda:0 as in the"):
        bnfast.batch_norm_backward(x, ctx)
