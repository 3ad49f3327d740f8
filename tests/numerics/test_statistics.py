"""Mean and var are exact to the stated bound, constants give beta, and extremes are numbers."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
import reference
from borders import THRESHOLDS
from cases import ACTIVATIONS, BFLOAT16, DTYPES, SMOOTH, assert_near, channel_dtype

import bnfast

pytestmark = pytest.mark.core


def exact_moments(values: np.ndarray) -> tuple[Fraction, Fraction]:
    """Mean and biased variance without any rounding."""
    mantissa, exponent = np.frexp(values.astype(np.float64).ravel())
    low = int(exponent.min())
    whole = [
        int(m) << int(e)
        for m, e in zip((mantissa * 2.0**53).astype(np.int64), exponent - low, strict=True)
    ]
    unit = Fraction(2) ** (low - 53)
    n, total = len(whole), sum(whole)
    squares = sum(k * k for k in whole)
    return Fraction(total, n) * unit, Fraction(n * squares - total * total, n * n) * unit * unit


LAYOUTS = {
    "planes of several blocks": ((2, 2, 2 * THRESHOLDS["block_elements"] + 809), 1),
    "blocks of several planes": ((150, 3, THRESHOLDS["short_plane_of_many"] + 11), 1),
    "short planes": ((300, 3, THRESHOLDS["short_plane"] - 9), 1),
    "wide rows": ((130, 2 * THRESHOLDS["narrow_rows"] + 8), 1),
    "narrow rows": ((4 * THRESHOLDS["block_rows"] + 452, 5), 1),
    "one channel": ((7000,), None),
}
RATIOS = [0.0, 1.0, 1e2, 1e4, 1e6]
# What 16-bit x is promised: var relative to the exact one, and the mean relative to std.
SHORT_VAR, SHORT_MEAN = 2.0**-16, 2.0**-20


@functools.cache
def data_with_exact_moments(layout: str, ratio: float, dtype: np.dtype):
    shape, axis = LAYOUTS[layout]
    generator = np.random.default_rng(int(ratio) % 97)
    x = (generator.normal(size=shape) + ratio).astype(dtype)
    if axis is None:
        x, axis = x[:, None], 1
    x.setflags(write=False)
    channels = np.moveaxis(x, axis, 0)
    return x, axis, [exact_moments(channel) for channel in channels]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_var_is_exact_to_the_stated_bound(layout, ratio, dtype, target):
    if dtype == np.float16 and ratio > 6e4:
        pytest.skip("beyond float16")
    x, axis, exact = data_with_exact_moments(layout, ratio, dtype)
    moments = bnfast.moments(x, axis=axis)
    _, ctx = bnfast.batch_norm(x, axis=axis)
    assert ctx.moments == moments
    for c, (mean, var) in enumerate(exact):
        assert moments.count[c] == x.size // x.shape[axis]
        bound = 1e-12 + 2.0**-53 * float(abs(mean)) / math.sqrt(var) if var else 0.0
        if dtype.itemsize == 2:
            bound = SHORT_VAR
        assert abs(Fraction(float(moments.var()[c])) - var) <= Fraction(bound) * var
        of_std = SHORT_MEAN if dtype.itemsize == 2 else 2.0**-48
        rounding = abs(mean) * Fraction(2.0**-52) + Fraction(math.sqrt(var)) * Fraction(of_std)
        assert abs(Fraction(float(moments.mean[c])) - mean) <= rounding
        reported = np.float32(float(var)) if ctx.var.dtype == np.float32 else np.float64(float(var))
        ulps = 2 if ctx.var.dtype == np.float32 else 1e-12 * 2**53
        assert abs(Fraction(float(ctx.var[c])) - Fraction(float(moments.var()[c]))) <= (
            ulps * Fraction(float(np.spacing(reported)))
        )


def test_float64_with_a_large_mean(target):
    generator = np.random.default_rng(0)
    for shape, axis in (((3, 2, 3001), 1), ((4000, 3), 1)):
        x = generator.normal(1e8, 1, shape)
        y, ctx = bnfast.batch_norm(x, axis=axis)
        for c in range(shape[axis]):
            values = x[:, c]
            mean, var = exact_moments(values)
            assert abs(Fraction(float(ctx.var[c])) / var - 1) <= 1e-12
            std = math.sqrt(var + Fraction(1e-5))
            want = [float(Fraction(float(v)) - mean) / std for v in values.ravel()[::17]]
            np.testing.assert_allclose(y[:, c].ravel()[::17], want, rtol=0, atol=1e-12)


CONSTANTS = [0.1, 1e-30, 3e29, -7.3, 0.0, 1.0, 3e38, -1e-42, 1e-3]


@pytest.mark.parametrize("shape", [(3, 2, 9001), (700, 3, 5), (1300, 20), (5, 1, 33)])
@pytest.mark.parametrize("eps", [1e-5, 0.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_input_gives_exactly_beta(dtype, eps, shape, target):
    generator = np.random.default_rng(1)
    gamma, beta = generator.normal(size=(2, shape[1]))
    wanted = np.broadcast_to(
        beta.astype(channel_dtype(dtype)).reshape([-1] + [1] * (len(shape) - 2)), shape
    ).astype(dtype)
    for constant in CONSTANTS:
        with np.errstate(over="ignore"):
            x = np.full(shape, constant, dtype)
        if not np.isfinite(x.flat[0]):
            continue
        y, ctx = bnfast.batch_norm(x, gamma, beta, eps=eps)
        assert not ctx.moments.m2.any(), constant
        assert (ctx.moments.mean == float(x.flat[0])).all(), constant
        np.testing.assert_array_equal(y, wanted, err_msg=str(constant))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_input_gives_exactly_the_activation_of_beta_and_residual(dtype, activation):
    generator = np.random.default_rng(2)
    shape = (9, 11, 33)
    residual = generator.normal(size=shape).astype(dtype)
    gamma, beta = generator.normal(size=(2, 11))
    options = {"residual": residual, "activation": activation}
    # 0 * gamma + beta has no rounding: the same activation of the same sum.
    want = bnfast.batch_norm_inference(
        np.zeros(shape, dtype), np.zeros(11), np.ones(11), gamma, beta, **options
    )
    for constant in (0.1, 1e-30, 3e29, -7.3):
        with np.errstate(over="ignore"):
            x = np.full(shape, constant, dtype)
        if np.isfinite(x.flat[0]):
            y, _ = bnfast.batch_norm(x, gamma, beta, **options)
            np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(
    ("size", "eps"), [(3e29, 1e-5), (1e38, 1e-5), (1e38, 0.0), (1e-42, 0.0), (1e-30, 0.0)]
)
@pytest.mark.parametrize("shape", [(40, 7), (6, 3, 50), (2, 2, 4501)])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16], ids=str)
def test_ends_of_the_range(dtype, shape, size, eps):
    if dtype == BFLOAT16 and size < 1e-35:
        pytest.skip("nothing is left of it in bfloat16")
    generator = np.random.default_rng(3)
    x = (generator.uniform(-3, 3, shape) * size).astype(np.float32).astype(dtype)
    gamma, beta = generator.normal(1, 0.3, (2, shape[1]))
    moments = bnfast.moments(x)
    assert np.isfinite(moments.var()).all() and (moments.var() > 0).all()
    for c in range(shape[1]):
        var = exact_moments(x[:, c])[1]
        assert abs(Fraction(float(moments.var()[c])) / var - 1) <= 1e-12 + 2.0**-53 * 10
    for activation in SMOOTH:
        y, _ = bnfast.batch_norm(x, gamma, beta, eps=eps, activation=activation)
        want, ref = reference.batch_norm(x, gamma, beta, eps=eps, activation=activation)
        magnitude = np.moveaxis(
            (np.abs(ref.gamma * ref.centred * ref.invstd) + np.abs(ref.beta)).reshape(
                [shape[1], shape[0], *shape[2:]]
            ),
            0,
            1,
        )
        assert_near(y, want, np.abs(want) + 1.2 * magnitude)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("shape", [(40, 7), (6, 3, 50), (2, 2, 9001), (2000, 20)])
def test_gamma_std_and_beta_mean_give_the_identity(shape, dtype, ratio, target):
    x = (np.random.default_rng(4).normal(size=shape) + ratio).astype(dtype)
    moments = bnfast.moments(x)
    y, _ = bnfast.batch_norm(x, np.sqrt(moments.var() + 1e-5), moments.mean)
    largest = np.abs(x).max(axis=tuple(d for d in range(x.ndim) if d != 1), keepdims=True)
    assert (np.abs(y - x) <= 4 * np.spacing(largest)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_merge_into_the_whole(dtype):
    x = np.random.default_rng(5).normal(100, 1, (50, 4, 37)).astype(dtype)
    whole = bnfast.moments(x)
    merged = sum(
        (bnfast.moments(part) for part in np.array_split(x, 7)), start=bnfast.Moments.empty(4)
    )
    assert (merged.count == whole.count).all()
    short = dtype.itemsize == 2
    of_std = 2 * SHORT_MEAN if short else 0.0
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-15, atol=of_std * whole.std().max())
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=2 * SHORT_VAR if short else 1e-12)
