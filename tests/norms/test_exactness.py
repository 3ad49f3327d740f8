"""Statistics are exact to the stated bound, and what is extreme in one row stays there."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
from borders import THRESHOLDS
from cases import ACTIVATIONS, BFLOAT16, DTYPES, assert_near, assert_same_bits, channel_dtype
from moments.cases import exact_moments

import bnfast
from norms.cases import (
    BEFORE,
    EPS,
    NAMES,
    NormCase,
    case_of,
    check_forward,
    check_gradients,
    units_of,
)

pytestmark = pytest.mark.core

BLOCK = THRESHOLDS["block_elements"]
SHAPES = [(3, 2), (5, 7), (2, 100), (2, 768), (2, BLOCK - 1), (1, 2 * BLOCK + 809)]


def as_rows(name: str, rows: np.ndarray) -> NormCase:
    """A call whose statistics are those of the rows, each of which may stand for two channels."""
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
        for row, (count, mean, m2) in enumerate(exact):
            # The channels of a group are alike: its statistics are those of the row.
            got_mean, got_var = (a if a is None else a.ravel()[row] for a in (ctx.mean, ctx.var))
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
                assert abs(Fraction(float(got_mean)) - mean) <= allowed


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
    assert_near(y[1], np.full(40, -2 / math.sqrt(1 + eps / 9)), 2, units_of(np.dtype(dtype)))
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
    ("dtype", "power"),
    [(np.float32, -140), (np.float32, -100), (np.float32, 125), (BFLOAT16, 125),
     *((np.float64, power) for power in (-1000, -660, -530, 330, 515, 1000))],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_ends_of_the_range(name, dtype, power):
    """As numbers of ordinary size: also denormals, and where squares are beyond float64."""
    for shape in ((4, 6, 9), (2, 6, BLOCK // 4)):
        case = case_of(name, shape, dtype, eps=0.0, activation="tanh")
        case.dh = None
        scaled = np.ldexp(np.random.default_rng(0).uniform(-3, 3, shape), power).astype(dtype)
        results = []
        for x, back in ((scaled, power), (np.ldexp(scaled.astype(np.float64), -power), 0)):
            case.x = x.astype(dtype)
            y, ctx = case.forward()
            dx, dgamma, *_ = case.backward(ctx)
            results.append([y, dgamma])
            if power != -140:  # there they are beyond float32
                results[-1] += [np.ldexp(a.astype(np.float64), back) for a in (dx, ctx.invstd)]
        # Both have some roundings of each of their terms, in bfloat16 that of the result.
        near = {2: 2 * 2.0**-8, 4: 64 * 2.0**-24, 8: 64 * 2.0**-53}[np.dtype(dtype).itemsize]
        for got, want in zip(*(map(np.float64, r) for r in results), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=near * np.abs(want).max())


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
            of_rows = [(c.mean, c.var, c.invstd) for c in (ctx, second)]
            assert_same_bits([y, *of_rows[0]], [again, *of_rows[1]])
            dh, dgamma, dbeta, _ = of_h.backward(second)
            assert_same_bits(case.backward(ctx)[1:], [dgamma, dbeta, dh])


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
