"""Statistics and gradient sums of 16-bit x, short runs of which are summed in float32."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from borders import THRESHOLDS
from cases import BFLOAT16

import bnfast
from numerics.test_statistics import SHORT_MEAN, SHORT_VAR, exact_moments

pytestmark = pytest.mark.core

SHORT = [np.dtype(np.float16), BFLOAT16]
SHAPES = {
    "planes": (3, 2, 15 * 16 + 5),
    "long planes": (1, 2, THRESHOLDS["block_elements"] + 700),
    "planes of less than a run": (9, 3, THRESHOLDS["short_plane_of_many"] + 1),
    "short planes": (37, 4, 9),
    "rows": (THRESHOLDS["block_rows"] + 39, 2 * THRESHOLDS["lanes"] + 3),
    "narrow rows": (700, 3),
}


def steps(dtype: np.dtype) -> float:
    """Numbers of dtype from 1 to 2."""
    return 2.0**7 if dtype == BFLOAT16 else 2.0**10


def kinds(shape: tuple[int, ...], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Channels that are hard to sum in float32, as float64."""
    generator = np.random.default_rng(5)
    normal = generator.normal(size=shape)
    index = np.arange(normal.size).reshape(shape)
    made = {f"mean / std {ratio}": normal + ratio for ratio in (0.0, 1.5, 2.2, 2.3, 4.0, 6.0)}
    # As far from zero as the type resolves, and a few numbers that differ in their last bit.
    made["far from zero"] = normal + 2 * steps(dtype)
    made["two neighbours"] = 1 + (generator.random(shape) < 0.5) / steps(dtype)
    made["one differs"] = 1 + (index % normal[0].size == normal[0].size - 1) / steps(dtype)
    made["constant"] = np.full(shape, 1 + 1 / steps(dtype))
    made["zero"] = np.zeros(shape)
    made["half are zero"] = np.maximum(normal, 0)
    made["alternating"] = np.where(index % 2, 1, -1) * (1000 + normal)
    # Each addition to a run that begins with a 1 is rounded up by nearly half an ulp.
    made["creeping"] = np.where(index % 7, 1.01 * 2.0**-24, 1)
    made["outliers"] = np.where(generator.random(shape) < 0.01, 3e4, normal)
    made["denormals"] = normal * 2.0 ** (-127 if dtype == BFLOAT16 else -17)
    if dtype == BFLOAT16:
        # Squares, then sums of a few, then single squares of deviations are beyond float32.
        made |= {f"std {size}": normal * size for size in (1e18, 3e19, 5e37, 1e-15, 1e-18, 1e-30)}
        made["far and large"] = (normal + 2 * steps(dtype)) * 1e35
        made["tiny, and some large"] = np.where(index % 5, 1e-25, 1e-3) * normal
        made["tiny, and some huge"] = np.where(index % 64, 1.0, 1e30) * normal
    return made


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_statistics_are_exact_to_the_stated_bound(name, dtype, target):
    shape = SHAPES[name]
    for kind, values in kinds(shape, dtype).items():
        x = values.astype(np.float32).astype(dtype)
        moments = bnfast.moments(x)
        for c in range(shape[1]):
            mean, var = exact_moments(x[:, c])
            off = Fraction(float(moments.mean[c])) + Fraction(float(moments.mean_low[c])) - mean
            of_var = Fraction(float(moments.var()[c])) - var
            assert abs(of_var) <= Fraction(SHORT_VAR) * var, (kind, c)
            # sqrt(var) of exact numbers may be beyond float64
            assert off * off <= Fraction(SHORT_MEAN) ** 2 * var + (mean / 2**52) ** 2, (kind, c)


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_where_leaves_the_bound(name, dtype):
    shape = SHAPES[name]
    where = np.random.default_rng(6).random((shape[0], 1, *shape[2:])) < 0.6
    for kind, values in kinds(shape, dtype).items():
        x = values.astype(np.float32).astype(dtype)
        moments = bnfast.moments(x, where=where)
        for c in range(shape[1]):
            _, var = exact_moments(x[:, c][where[:, 0]])
            of_var = Fraction(float(moments.var()[c])) - var
            assert abs(of_var) <= Fraction(SHORT_VAR) * var, (kind, c)


# --- gradients ------------------------------------------------------------------------------------


def exact_sums(x, dz, moments):
    """sum dz, sum dz * (x - mean), and both of magnitudes, for each channel."""
    wide = np.longdouble
    axes = (0, *range(2, x.ndim))
    of_channel = (1, -1, *[1] * (x.ndim - 2))
    centred = x.astype(wide) - moments.mean.astype(wide).reshape(of_channel)
    centred -= moments.mean_low.reshape(of_channel)
    dz = dz.astype(wide)
    return [a.sum(axes) for a in (dz, dz * centred, np.abs(dz), np.abs(dz * centred))]


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("name", ["planes", "short planes", "rows"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradient_sums_are_those_of_float32(name, dtype, activation, target):
    """Also where dy, or x, is so large or small that their products are beyond float32."""
    shape = SHAPES[name]
    generator = np.random.default_rng(7)
    of_dy = [1.0, 0.0, *([1e-20, 1e-32, 1e37, 3e38] if dtype == BFLOAT16 else [1e-6, 3e4])]
    x_kinds = ["mean / std 1.5", "far from zero", "constant", "outliers", "denormals"]
    if dtype == BFLOAT16:
        x_kinds += ["std 1e+18", "std 5e+37", "std 1e-18", "std 1e-30"]
    for size in of_dy:
        dy = (generator.uniform(-1, 1, shape) * size).astype(np.float32).astype(dtype)
        for kind in x_kinds:
            x = kinds(shape, dtype)[kind].astype(np.float32).astype(dtype)
            _, ctx = bnfast.batch_norm(x, eps=1e-30, activation=activation)
            sums = bnfast.batch_norm_backward_sums(dy, ctx)
            passed = dy
            if activation == "relu":
                unit, _ = bnfast.batch_norm(x, eps=1e-30)
                passed = np.where(unit.astype(np.float32) > 0, dy.astype(np.float32), 0)
            exact, exact_xmu, all_dz, all_xmu = exact_sums(x, passed, ctx.moments)
            assert (np.abs(sums.sum_dy - exact) <= all_dz / 2**20).all(), (size, kind)
            assert (np.abs(sums.sum_dy_xmu - exact_xmu) <= all_xmu / 2**20).all(), (size, kind)
            if kind == "constant":
                assert not sums.sum_dy_xmu.any()


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_channels_do_not_depend_on_the_loop_that_others_need(name, dtype):
    """An extreme channel takes all of a call to the general loop."""
    shape = SHAPES[name]
    generator = np.random.default_rng(8)
    x, dy = generator.normal(1, 2, (2, *shape)).astype(np.float32).astype(dtype)
    gamma, beta = np.ones(shape[1]), np.zeros(shape[1])
    results = []
    for last in (1.0, 2.0**80):
        gamma[-1] = last
        _, ctx = bnfast.batch_norm(x, gamma, beta, activation="relu")
        sums = bnfast.batch_norm_backward_sums(dy, ctx)
        results.append([sums.sum_dy[:-1], sums.sum_dy_xmu[:-1]])
        assert np.isfinite(sums.sum_dy_xmu).all()
    for one, other in zip(*results, strict=True):
        assert one.tobytes() == other.tobytes()
