"""`where` leaves elements out of statistics and sums, and of y and dx, which are 0 there."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import ACTIVATIONS, DTYPES, Case, assert_near, assert_same_bits, cases
from hypothesis import assume, given, settings

import bnfast

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    "mask",
    [
        np.arange(20).reshape(4, 5) % 3 > 0,  # the channel axis is removed
        (np.arange(4) != 2).reshape(4, 1, 1),  # it has length 1
        np.arange(5) != 1,  # trailing axes only
        np.array(True),
    ],
    ids=lambda mask: str(mask.shape),
)
def test_where_broadcasts_like_numpy(mask):
    x = np.random.default_rng(3).normal(size=(4, 3, 5)).astype(np.float32)
    y, _ = bnfast.batch_norm(x, where=mask)
    want, _ = reference.batch_norm(x, where=mask)
    assert_near(y, want, 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_where_that_keeps_nothing(dtype):
    x = np.full((6, 3), np.nan, dtype)
    y, ctx = bnfast.batch_norm(x, where=np.zeros(6, bool), gamma=np.ones(3), beta=np.ones(3))
    assert not y.any() and ctx.moments == bnfast.Moments.empty(3)
    grads = bnfast.batch_norm_backward(x, ctx)
    assert not grads.dx.any() and not grads.dgamma.any() and not grads.dbeta.any()


@settings(max_examples=100)
@given(cases())
def test_what_is_left_out_is_not_seen(case: Case):
    """Its value in x, the residual and dy, NaN and infinities included, changes no bit."""
    where = case.options.get("where")
    assume(where is not None)
    full = np.broadcast_to(
        where if where.ndim == case.x.ndim else np.expand_dims(where, case.axis), case.x.shape
    )

    def results(poison):
        arrays = {"x": case.x, "dy": case.dy, "residual": case.options.get("residual", case.x)}
        filled = {}
        for name, a in arrays.items():
            clean = np.where(full, np.where(np.isfinite(a), a, 1), poison).astype(a.dtype)
            filled[name] = clean.copy()
        options = {**case.options, "residual": filled["residual"]}
        y, ctx = bnfast.batch_norm(filled["x"], case.gamma, case.beta, **options)
        grads = bnfast.batch_norm_backward(filled["dy"], ctx)
        assert not y[~full].any() and not grads.dx[~full].any()
        return [y, ctx.mean, ctx.var, *grads]

    want = results(0)
    for poison in (np.nan, np.inf, -7):
        assert_same_bits(results(poison), want)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_mask_of_true_is_no_mask_but_for_the_order_of_sums(activation):
    x, dy = np.random.default_rng(1).normal(size=(2, 6, 4, 7))
    options = {"activation": activation}
    y, ctx = bnfast.batch_norm(x, np.ones(4), np.zeros(4), **options)
    same, same_ctx = bnfast.batch_norm(
        x, np.ones(4), np.zeros(4), where=np.ones((6, 7), bool), **options
    )
    np.testing.assert_allclose(same, y, rtol=0, atol=1e-13)
    grads = bnfast.batch_norm_backward(dy, ctx)
    for got, want in zip(bnfast.batch_norm_backward(dy, same_ctx)[:3], grads, strict=False):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_given_statistics(dtype, axis):
    """What takes part gives the same bits as without where; the rest is 0 whatever it holds."""
    generator = np.random.default_rng(0)
    x, residual, dy = generator.standard_normal((3, 4, 3, 20, 3)).astype(dtype)
    mean, var = generator.random((2, 3))
    where = generator.random((4, 1, 20, 1)) < 0.5 if axis == 1 else generator.random((3, 20)) < 0.5
    full = np.broadcast_to(where if axis == 1 else where[:, :, None], x.shape)
    options = {"axis": axis, "activation": "silu"}
    y, ctx = bnfast.batch_norm_frozen(x, mean, var, mean, var, residual=residual, **options)
    want = bnfast.batch_norm_backward(np.where(full, dy, 0), ctx)
    bad_x, bad_residual, bad_dy = (
        np.where(full, a, np.array(np.nan, dtype)) for a in (x, residual, dy)
    )
    options |= {"where": where, "residual": bad_residual}
    frozen, ctx = bnfast.batch_norm_frozen(bad_x, mean, var, mean, var, **options)
    inferred = bnfast.batch_norm_inference(bad_x, mean, var, mean, var, **options)
    grads = bnfast.batch_norm_backward(bad_dy, ctx)
    for got, all_of_it in (
        (frozen, y),
        (inferred, y),
        (grads.dx, want.dx),
        (grads.dresidual, want.dresidual),
    ):
        np.testing.assert_array_equal(got, np.where(full, all_of_it, 0))
    np.testing.assert_allclose(grads.dgamma, want.dgamma, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(grads.dbeta, want.dbeta, rtol=1e-6, atol=1e-6)
