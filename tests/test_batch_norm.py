"""The training-mode forward pass is the textbook's, for any shape, dtype, view and option."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import (
    ACTIVATIONS,
    BFLOAT16,
    DTYPES,
    Case,
    assert_near,
    assert_same_bits,
    cases,
    check_forward,
)
from hypothesis import given, settings

import bnfast

pytestmark = pytest.mark.core


@settings(max_examples=400)
@given(cases())
def test_forward_is_the_textbook(case: Case):
    check_forward(case)


# --- statistics that are given --------------------------------------------------------------------


@settings(max_examples=100)
@given(cases())
def test_own_moments_as_stats_change_nothing(case):
    y, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    where = case.options.get("where")
    moments = bnfast.moments(case.x, axis=case.axis, where=where)
    assert moments == ctx.moments
    assert moments.to_bytes() == ctx.moments.to_bytes()
    again, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, stats=moments, **case.options)
    assert_same_bits([again], [y])
    assert ctx.moments == moments


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


def test_statistics_of_nothing_are_those_of_an_empty_batch():
    none = bnfast.Moments.empty(3)
    assert bnfast.batch_norm(np.ones((0, 3)), stats=none)[0].shape == (0, 3)
    x = np.ones((2, 3))
    y = bnfast.batch_norm(x, stats=none, where=np.zeros(2, bool))[0]
    np.testing.assert_array_equal(y, np.zeros((2, 3)))


# --- few elements, and odd ones -------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(0, 3), (0, 3, 5), (4, 3, 0), (2, 0), (2, 0, 5), (0, 0), (0, 1), (4, 1, 0)]
)
def test_empty(shape):
    gamma = beta = np.ones(shape[1], np.float32)
    for dtype in DTYPES:
        x = np.zeros(shape, dtype)
        for activation in ACTIVATIONS:
            y, ctx = bnfast.batch_norm(x, gamma, beta, activation=activation, residual=x)
            assert y.shape == shape and y.dtype == dtype
            assert ctx.moments == bnfast.Moments.empty(shape[1]) or x.shape[1] == 0
            assert ctx.moments == bnfast.moments(x)
            grads = bnfast.batch_norm_backward(x, ctx)
            assert grads.dx.shape == grads.dresidual.shape == shape
            np.testing.assert_array_equal(grads.dgamma, np.zeros(shape[1]))
            np.testing.assert_array_equal(grads.dbeta, np.zeros(shape[1]))
        y = bnfast.batch_norm_inference(x, np.zeros(shape[1]), np.ones(shape[1]))
        assert y.shape == shape


def test_empty_slice_of_planes():
    x = np.zeros((4, 3, 8), np.float32)[:, :, :0]
    y, ctx = bnfast.batch_norm(x, np.ones(3), np.ones(3))
    assert y.shape == bnfast.batch_norm_backward(x, ctx).dx.shape == x.shape
    assert ctx.moments == bnfast.moments(x) == bnfast.Moments.empty(3)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_value_a_channel(activation, eps):
    for dtype in DTYPES:
        generator = np.random.default_rng(2)
        x, residual = generator.normal(size=(2, 1, 33)).astype(dtype)
        beta = generator.normal(size=33).astype(np.float32)
        options = {"residual": residual, "activation": activation, "eps": eps}
        y, ctx = bnfast.batch_norm(x, None, beta, **options)
        assert not ctx.var.any()
        z = beta.astype(reference.Wide) + residual.astype(reference.Wide)
        want = reference.activate(z, activation)[0]
        assert_near(y, want, np.abs(beta) + np.abs(residual.astype(np.float32)), units=4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_not_finite_stays_in_its_channel(axis, bad):
    x = np.random.default_rng(5).normal(size=(50, 20)).astype(np.float32)
    x = x if axis else np.ascontiguousarray(x.T)
    want, _ = bnfast.batch_norm(x, axis=axis, activation="relu")
    np.moveaxis(x, axis, 1)[7, 3] = bad
    y, ctx = bnfast.batch_norm(x, axis=axis, activation="relu")
    assert np.isnan(ctx.var[3])
    others = np.arange(20) != 3
    y, want = (np.moveaxis(a, axis, 1) for a in (y, want))
    assert np.isnan(y[:, 3]).all()
    assert_same_bits([y[:, others]], [want[:, others]])


def test_parameters_of_either_precision_and_any_stride():
    x = np.random.default_rng(6).normal(size=(30, 6)).astype(BFLOAT16)
    gamma = np.linspace(0.5, 2, 6).astype(np.float32)
    want = bnfast.batch_norm(x, gamma, gamma)[0]
    for other in (gamma.astype(np.float64), np.repeat(gamma, 3)[1::3], gamma[::-1].copy()[::-1]):
        assert_same_bits([bnfast.batch_norm(x, other, other)[0]], [want])


def test_ctx_tells_infinite_var_where_float32_ends():
    x = np.array([[-3e38], [3e38]], np.float32)
    y, ctx = bnfast.batch_norm(x)
    assert np.isposinf(ctx.var) and np.isfinite(ctx.moments.m2)
    np.testing.assert_array_equal(y, [[-1], [1]])
