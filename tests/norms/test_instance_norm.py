"""Instance norm is batch norm of every sample by itself, bit for bit, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, Case, as_view, assert_same_bits, cases, numbers
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


@pytest.mark.parametrize("view", ["F", "channels_last", "strided", "negative", "unaligned"])
def test_any_memory(view):
    for dtype in DTYPES:
        x, dy = as_view(numbers((3, 5, 4, 6), dtype), view), numbers((3, 5, 4, 6), dtype, 1)
        want, want_ctx = bnfast.instance_norm(x.copy(order="K"), activation="relu")
        out = as_view(np.full(x.shape, 7, dtype), view)
        y, ctx = bnfast.instance_norm(x, activation="relu", out=out)
        assert y is out
        assert_same_bits([y], [want])
        dx = bnfast.norm_backward(dy, ctx, out=as_view(np.zeros_like(x), view)).dx
        assert_same_bits([dx], [bnfast.norm_backward(dy, want_ctx).dx])


def test_in_place():
    x, dy = numbers((3, 5, 40), np.float64), numbers((3, 5, 40), np.float64, 1)
    want, ctx = bnfast.instance_norm(x, activation="leaky_relu")
    gradient = bnfast.norm_backward(dy, ctx).dx
    y, ctx = bnfast.instance_norm(x, activation="leaky_relu", out=x)
    assert y is x
    assert_same_bits([y], [want])
    np.testing.assert_allclose(bnfast.norm_backward(dy, ctx).dx, gradient, rtol=0, atol=1e-12)


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


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty(shape):
    x = np.zeros(shape, np.float32)
    y, ctx = bnfast.instance_norm(x, np.ones(shape[1]), np.ones(shape[1]))
    grads = bnfast.norm_backward(x, ctx)
    assert y.shape == grads.dx.shape == shape
    assert not grads.dgamma.any() and not grads.dbeta.any()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_show_in_no_bit(threads):
    x, dy = numbers((7, 40, 11, 13)), numbers((7, 40, 11, 13), seed=1)

    def results():
        y, ctx = bnfast.instance_norm(x, np.ones(40), np.ones(40), activation="relu")
        return [y, ctx.mean, ctx.var, *bnfast.norm_backward(dy, ctx)]

    with bnfast.num_threads(1):
        want = results()
    with bnfast.num_threads(threads):
        assert_same_bits(results(), want)


X = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "instance_norm: axis is 0, expected", lambda: bnfast.instance_norm(X, axis=0)),
        (ValueError, "instance_norm: axis is 3, expected", lambda: bnfast.instance_norm(X, axis=3)),
        (ValueError, "instance_norm: axis is 1, expected", lambda: bnfast.instance_norm(X[0, 0])),
        (ValueError, "instance_norm: gamma has shape", lambda: bnfast.instance_norm(X, np.ones(2))),
        (ValueError, "instance_norm: eps is -1", lambda: bnfast.instance_norm(X, eps=-1)),
        (ValueError, "instance_norm: activation", lambda: bnfast.instance_norm(X, activation="x")),
        (TypeError, "instance_norm: x has dtype", lambda: bnfast.instance_norm(X.astype(int))),
        (TypeError, "norm_backward: ctx", lambda: bnfast.norm_backward(X, None)),
        (
            ValueError,
            "norm_backward: dy has shape",
            lambda: bnfast.norm_backward(X[:1], bnfast.instance_norm(X)[1]),
        ),
        (
            ValueError,
            "norm_backward: dh is given",
            lambda: bnfast.norm_backward(X, bnfast.instance_norm(X)[1], dh=X),
        ),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=f"^{message}"):
        call()
