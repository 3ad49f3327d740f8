"""Instance norm is batch norm of every sample by itself, bit for bit, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, Case, assert_same_bits, cases, numbers
from hypothesis import assume, given, settings

import bnfast

pytestmark = pytest.mark.core


@settings(max_examples=200)
@given(cases(masked=False))
def test_every_sample_is_normalised_by_itself(case: Case):
    axis = case.axis % case.x.ndim
    assume(axis != 0)
    options = {k: v for k, v in case.options.items() if k not in ("axis", "eps_placement")}
    x, dy = np.ascontiguousarray(case.x), np.ascontiguousarray(case.dy)
    residual = options.pop("residual", None)
    if residual is not None:
        options["residual"] = residual = np.ascontiguousarray(residual)
    y, ctx = bnfast.instance_norm(x, case.gamma, case.beta, axis=axis, **options)
    grads = bnfast.norm_backward(dy, ctx)
    assert ctx.mean.shape == ctx.var.shape == ctx.invstd.shape == (x.shape[0], x.shape[axis])
    dgamma, dbeta = np.zeros((2, x.shape[axis]))
    for n in range(x.shape[0]):
        one = slice(n, n + 1)
        if residual is not None:
            options["residual"] = residual[one]
        want, of_one = bnfast.batch_norm(x[one], case.gamma, case.beta, axis=axis, **options)
        wanted = bnfast.batch_norm_backward(dy[one], of_one)
        assert_same_bits([y[one], grads.dx[one]], [want, wanted.dx])
        assert_same_bits(
            [ctx.mean[n], ctx.var[n], ctx.invstd[n]], [of_one.mean, of_one.var, of_one.invstd]
        )
        if residual is not None:
            assert_same_bits([grads.dresidual[one]], [wanted.dresidual])
        dgamma += 0 if case.gamma is None else wanted.dgamma
        dbeta += 0 if case.beta is None else wanted.dbeta
    for got, sums, given_one in (
        (grads.dgamma, dgamma, case.gamma),
        (grads.dbeta, dbeta, case.beta),
    ):
        assert (got is None) == (given_one is None)
        if got is not None:
            most = np.abs(sums).max(initial=0) + np.abs(dy.astype(float)).sum()
            np.testing.assert_allclose(got, sums, rtol=0, atol=1e-6 * most * x.shape[0])


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize(
    "shape", [(3, 5, 40), (4, 33, 7, 9), (6, 3, 5), (8, 16, 16, 64), (33, 31, 31), (3, 1100, 20)]
)
def test_dropout_in_the_same_pass_is_that_of_separate_calls(shape, axis):
    for dtype in DTYPES[:2]:
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        options = {"axis": axis, "activation": "relu"}
        y, ctx = bnfast.instance_norm(x, **options, dropout=0.4, seed=9, offset=2)
        grads = bnfast.norm_backward(dy, ctx)
        plain, plain_ctx = bnfast.instance_norm(x, **options)
        want, mask = bnfast.dropout(plain, 0.4, seed=9, offset=2)
        wanted = bnfast.norm_backward(bnfast.dropout_backward(dy, mask), plain_ctx)
        assert_same_bits([y, *grads], [want, *wanted])


@pytest.mark.parametrize("length", [5, 13, 30, 60])
def test_samples_of_one_channel_that_do_not_touch(length):
    whole, out = numbers((6, 1, 64)), np.full((6, 1, 64), 7, np.float32)
    x = whole[:, :, :length]
    want, want_ctx = bnfast.instance_norm(x.copy())
    y, ctx = bnfast.instance_norm(x, out=out[:, :, :length])
    assert_same_bits([y, ctx.mean, ctx.var], [want, want_ctx.mean, want_ctx.var])
    assert (out[:, :, length:] == 7).all()
    dx = bnfast.norm_backward(x, ctx, out=out[:, :, :length]).dx
    assert_same_bits([dx], [bnfast.norm_backward(x.copy(), want_ctx).dx])
    assert (out[:, :, length:] == 7).all()
    bnfast.instance_norm(np.broadcast_to(np.float32(3), (6, 1)))
