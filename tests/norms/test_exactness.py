"""Statistics are exact to the stated bound, and what is extreme in one row stays there."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
from borders import THRESHOLDS
from cases import ACTIVATIONS, BFLOAT16, DTYPES, Wide, assert_same_bits, channel_dtype
from moments.cases import exact_moments

import bnfast
from norms.cases import BEFORE, EPS, NAMES, NormCase, case_of, check_forward, check_gradients

pytestmark = pytest.mark.core

BLOCK = THRESHOLDS["block_elements"]
SHAPES = [(3, 2), (5, 7), (2, 100), (2, 768), (2, BLOCK - 1), (1, 2 * BLOCK + 809)]


def as_rows(name: str, rows: np.ndarray) -> NormCase:
    """A call whose statistics are those of the rows: with two channels or none of its own."""
    if name in BEFORE:
        x, options = rows, {"axis": -1}
    elif name == "instance_norm":
        x, options = rows[:, None], {"axis": 1}
    else:
        x, options = np.stack([rows, rows], 1), {"axis": 1, "num_groups": 1}
    return NormCase(name, x, np.ones_like(x), None, None, options)


@functools.cache
def rows_with_exact_moments(shape, ratio, dtype):
    rows = (np.random.default_rng(int(ratio) % 97).normal(size=shape) + ratio).astype(dtype)
    rows.setflags(write=False)
    return rows, [exact_moments(row) for row in rows]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ratio", [0.0, 1.0, 5.4, 1e2, 1e4, 1e5, 1e6, 1e7])
@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_exact_to_the_stated_bound(name, ratio, dtype, target):
    if dtype == np.float16 and ratio > 6e4:
        pytest.skip("beyond float16")
    for shape in SHAPES:
        rows, exact = rows_with_exact_moments(shape, ratio, dtype)
        case = as_rows(name, rows)
        ctx, ref = check_forward(case)
        check_gradients(case, case.backward(ctx), ref)
        for got_var, (count, mean, m2), row in zip(ctx.var.ravel(), exact, range(len(exact)), strict=True):
            var = m2 / count + (mean**2 if name == "rms_norm" else 0)
            if var == 0:
                assert got_var == 0
                continue
            std = math.sqrt(var)
            # The bound for the variance, and the rounding of what is shown to float32.
            bound = 2.0**-16 if dtype.itemsize == 2 else 1e-12 + 2.0**-53 * float(abs(mean)) / std
            bound += 2.0**-24 if ctx.var.dtype == np.float32 else 0
            assert abs(Fraction(float(got_var)) / var - 1) <= bound
            if name != "rms_norm":
                # In 16 bits 2**-20 of std is promised; else the errors of a float64 sum.
                of_std = 2.0**-20 if dtype.itemsize == 2 else 2.0**-48
                rounding = 2.0**-24 if ctx.mean.dtype == np.float32 else 2.0**-52
                allowed = Fraction(of_std * std) + Fraction(rounding) * abs(mean)
                assert abs(Fraction(float(ctx.mean.ravel()[row])) - mean) <= allowed


CONSTANTS = [0.1, 1e-30, 3e29, -7.3, 0.0, 1.0, 3e38, -1e-42, 1e-3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [1e-5, 0.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_constant_rows_give_exactly_the_activation_of_beta(activation, eps, dtype):
    for length in (1, 7, 100, BLOCK + 5):
        gamma, beta = np.random.default_rng(1).normal(size=(2, length))
        options = {"activation": activation, "eps": eps}
        # 0 * gamma + beta has no rounding: the activation of beta itself.
        want = bnfast.batch_norm_inference(
            np.zeros((1, length), dtype), np.zeros(length), np.ones(length), gamma, beta, **options
        )
        with np.errstate(over="ignore"):
            x = np.array(CONSTANTS).astype(np.float32).astype(dtype)
        x = x[np.isfinite(x.astype(np.float32))][:, None]
        y, ctx = bnfast.layer_norm(np.broadcast_to(x, (len(x), length)), gamma, beta, **options)
        assert not ctx.var.any()
        np.testing.assert_array_equal(ctx.mean, x[:, 0].astype(ctx.mean.dtype))
        np.testing.assert_array_equal(y, np.broadcast_to(want, y.shape))
        grads = bnfast.norm_backward(np.ones_like(y), ctx)
        assert np.isfinite(grads.dx.astype(float)).all() and not grads.dgamma.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_constant_groups_give_exactly_beta(eps, dtype):
    gamma, beta = np.random.default_rng(1).normal(size=(2, 6)).astype(channel_dtype(dtype))
    for inner in (1, 9, BLOCK // 2 + 3):
        x = np.repeat(np.array([0.1, -7.3, 0.0]), 2 * inner).reshape(1, 6, inner).astype(dtype)
        for axis in (1, -1):
            given = np.ascontiguousarray(np.moveaxis(x, 1, axis))
            y, ctx = bnfast.group_norm(given, 3, gamma, beta, axis=axis, eps=eps)
            assert not ctx.var.any()
            want = np.broadcast_to(beta[:, None], (6, inner)).astype(dtype)
            np.testing.assert_array_equal(np.moveaxis(y, axis, 1)[0], want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [1e-6, 0.0])
def test_rms_norm_of_zeros_and_of_a_constant(eps, dtype):
    x = np.zeros((2, 40), dtype)
    x[1] = -3
    y, ctx = bnfast.rms_norm(x, np.full(40, 2.0), eps=eps)
    assert not y[0].any() and ctx.var.tolist() == [0, 9]
    np.testing.assert_array_equal(y[1], np.full(40, -2 / math.sqrt(1 + eps / 9)).astype(dtype))
    grads = bnfast.norm_backward(np.ones_like(x), ctx)
    assert np.isfinite(grads.dx.astype(float)).all()
    if eps == 0:
        assert not grads.dx[0].any()  # as invstd is 0


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_stays_in_its_row(name, poison):
    for dtype in DTYPES:
        for length in (7, 100, BLOCK + 5):
            rows = np.random.default_rng(0).normal(size=(6, length)).astype(dtype)
            case = as_rows(name, rows)
            y, ctx = case.forward()
            want = [y, ctx.var, ctx.invstd, case.backward(ctx).dx]
            case.x = case.x.copy()
            case.x[2, ..., length // 2] = poison
            y, ctx = case.forward()
            got = [y, ctx.var, ctx.invstd, case.backward(ctx).dx]
            others = np.arange(6) != 2
            assert_same_bits([a[others] for a in got], [a[others] for a in want])
            if name != "rms_norm" or np.isnan(poison):  # x / inf is 0
                assert np.isnan(y[2].astype(float)).all()
            assert not np.isfinite(ctx.var[2]).any()


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(np.float32, 1e-42), (np.float32, 1e-30), (np.float32, 1e38), (BFLOAT16, 1e38),
     *((np.float64, 10.0**power) for power in (-300, -200, -160, 100, 155, 300))],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_ends_of_the_range(name, dtype, size):
    """As in extended precision, also where squares are beyond float64: then ctx.var shows inf or 0."""
    if dtype == np.float64 and np.finfo(Wide).maxexp <= 2048:
        pytest.skip("long double is no wider than float64 here")
    for shape in ((4, 6, 9), (2, 6, BLOCK // 4)):
        case = case_of(name, shape, np.float64, eps=0.0, activation="tanh")
        case.x = (np.random.default_rng(0).uniform(-3, 3, shape) * size).astype(dtype)
        case.dy, case.dh = case.dy.astype(dtype), None
        y, ctx = case.forward()
        want, ref = case.textbook()
        # tanh and the sizes of z here keep errors below 16 roundings of 8, and the half ulp of y.
        unit = 2.0**-53 if dtype == np.float64 else 2.0**-24
        allowed = 128 * unit + (2.0**-9 if dtype == BFLOAT16 else 0)
        assert np.abs(y.astype(Wide) - want).max() <= allowed
        with np.errstate(over="ignore", under="ignore"):
            invstd = ref.parts.split(ref.invstd)[:, 0].reshape(ref.parts.statistics_shape)
            np.testing.assert_allclose(ctx.invstd, invstd.astype(ctx.invstd.dtype), rtol=2.0**-16)
        if dtype == np.float64:
            check_gradients(case, case.backward(ctx), ref)


def test_exact_rms_of_a_large_mean():
    """The mean square, not the variance: nothing cancels, however far from zero x is."""
    x = np.random.default_rng(0).normal(1e6, 1, (3, 500)).astype(np.float32)
    _, ctx = bnfast.rms_norm(x)
    exact = [sum(Fraction(float(v)) ** 2 for v in row) / 500 for row in x]
    np.testing.assert_array_equal(ctx.var, np.array([float(v) for v in exact], np.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BEFORE)
def test_y_is_the_norm_of_h_as_it_was_rounded(name, dtype):
    """Bit for bit that of a second call on h alone."""
    for shape in ((9, 5), (4, 6, 768), (2, BLOCK + 5)):
        for options in ({"dropout": 0.3, "seed": 1}, {}):
            case = case_of(name, shape, dtype, activation="gelu", **options)
            case.options["residual"] = (case.dy * np.array(100, dtype)).astype(dtype)
            y, ctx = case.forward()
            of_h = case_of(name, shape, dtype, activation="gelu")
            of_h.x = ctx.h
            again, second = of_h.forward()
            assert_same_bits([y, ctx.mean, ctx.var, ctx.invstd], [again, second.mean, second.var, second.invstd])
            assert_same_bits(case.backward(ctx)[1:], [*of_h.backward(second)[1:3], of_h.backward(second).dx])


@pytest.mark.parametrize("name", NAMES)
def test_eps_is_added_to_the_variance(name):
    """And its default is the contract's."""
    x = np.full((2, 4, 3), 1e-3)
    x[..., 0] = -1e-3
    case = NormCase(name, x, x, None, None, {"num_groups": 2} if name == "group_norm" else {})
    _, ctx = case.forward()
    np.testing.assert_allclose(ctx.invstd, 1 / np.sqrt(ctx.var + EPS[name]), rtol=1e-15)
    _, ctx = case.forward(eps=0.5)
    np.testing.assert_allclose(ctx.invstd, 1 / np.sqrt(ctx.var + 0.5), rtol=1e-15)
