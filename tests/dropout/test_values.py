"""Each mode of dropout makes of values and gradients what it promises, in place or not."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import reference
from cases import DTYPES, as_view, numbers
from hypothesis import example, given
from hypothesis import strategies as st

import bnfast

pytestmark = pytest.mark.core

ALPHA_PRIME = -1.7580993408473766  # what a dropped unit becomes in mode "alpha"
MODES = ["inverted", "classic", "alpha"]


def arithmetic(dtype: np.dtype) -> type:
    """What elements of a dtype are computed with as."""
    return np.float64 if dtype == np.float64 else np.float32


def expected(
    x: np.ndarray, mask: np.ndarray, rate: float, mode: str, backward: bool = False
) -> np.ndarray:
    """Dropout of x with a mask, in float64."""
    keep, wide = 1 - rate, np.where(mask, x, 0).astype(np.float64)
    if keep == 0:
        return np.zeros_like(wide)
    if mode == "inverted":
        return wide / keep
    if mode == "classic":
        return wide
    a = (keep + ALPHA_PRIME**2 * keep * rate) ** -0.5
    if backward:
        return a * wide
    return a * np.where(mask, wide, ALPHA_PRIME) - a * rate * ALPHA_PRIME


def assert_rounded(got: np.ndarray, want: np.ndarray, units: float = 4) -> None:
    """Within a few roundings of the arithmetic, and one of the dtype."""
    unit = np.finfo(arithmetic(got.dtype)).eps
    relative = units * unit + float(ml_dtypes.finfo(got.dtype).eps) / 2
    absolute = 16 * unit + (2.0**-24 if got.dtype == np.float16 else 0)  # a x + b may cancel
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=relative, atol=absolute)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_moments_of_each_mode(rate, mode):
    """Of standard normal x: the mean and the variance that each mode promises."""
    n = 500_000
    x = np.random.default_rng(4).normal(size=n)
    y, _ = bnfast.dropout(x, rate, seed=1, mode=mode)
    variance = {"inverted": 1 / (1 - rate), "classic": 1 - rate, "alpha": 1.0}[mode]
    assert abs(y.mean()) < 5 * math.sqrt(variance / n)
    assert abs(y.var() / variance - 1) < 5 * math.sqrt(10 / (1 - rate) / n)
    shifted, _ = bnfast.dropout(x + 3, rate, seed=1, mode=mode)
    mean = {"inverted": 3.0, "classic": 3 * (1 - rate)}.get(mode)
    if mean is not None:  # "alpha" keeps the mean 0 only
        assert abs(shifted.mean() - mean) < 5 * math.sqrt(10 / (1 - rate) / n)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropconnect(rate):
    """z* = (theta * P) x: its expectation is keep * z (Wan et al. 2013); and so is inference."""
    theta, x, runs = numbers((10, 40), np.float64), numbers((40,), np.float64, 1), 4000
    z = theta @ x
    samples = np.array(
        [bnfast.dropout(theta, rate, seed=6, offset=k, mode="classic")[0] @ x for k in range(runs)]
    )
    deviation = np.sqrt(rate * (1 - rate) * (theta**2 @ x**2) / runs)
    assert np.all(np.abs(samples.mean(0) - (1 - rate) * z) < 5 * deviation)
    assert np.all(np.abs(samples.mean(0) - z) > 5 * deviation)  # the test could tell
    np.testing.assert_allclose(
        bnfast.dropout_inference(theta, rate) @ x, (1 - rate) * z, rtol=1e-12
    )


# --- the values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.1, 0.5, 0.9, 1.0])
def test_values_and_gradients(rate, mode, target):
    mask = reference.dropout_mask((9, 4, 501), rate, seed=8, offset=2)
    for dtype in DTYPES:
        x, dy = numbers(mask.shape, dtype), numbers(mask.shape, dtype, 1)
        y, ctx = bnfast.dropout(x, rate, seed=8, offset=2, mode=mode)
        assert y.dtype == dtype and y.shape == x.shape
        assert_rounded(y, expected(x, mask, rate, mode))
        dx = bnfast.dropout_backward(dy, ctx)
        assert dx.dtype == dtype and dx.shape == x.shape
        assert_rounded(dx, expected(dy, mask, rate, mode, backward=True))
        assert np.all(dx[~mask] == 0)
        if mode != "alpha":
            assert np.all(y[~mask] == 0) and not np.signbit(y[~mask]).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rate_0_copies_bit_for_bit(dtype, mode):
    special = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 6e-8, 5e-324]
    with np.errstate(all="ignore"):
        x = np.resize(np.array(special), 300).astype(dtype)
    x[7::13] = numbers(x[7::13].shape, dtype)
    y, ctx = bnfast.dropout(x, 0, seed=1, mode=mode)
    assert y is not x and not np.shares_memory(y, x)
    assert y.tobytes() == x.tobytes()
    assert bnfast.dropout_backward(x, ctx).tobytes() == x.tobytes()
    assert (
        bnfast.dropout_inference(x, 0.3 if mode != "classic" else 0, mode=mode).tobytes()
        == x.tobytes()
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rate_1_gives_zeros(dtype, mode):
    x = np.full((5, 70), np.nan, dtype)
    y, ctx = bnfast.dropout(x, 1.0, seed=1, mode=mode)
    zeros = np.zeros_like(x).tobytes()
    assert y.tobytes() == zeros
    assert bnfast.dropout_backward(x, ctx).tobytes() == zeros


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_dropped_does_not_matter(dtype, mode, poison, target):
    clean = numbers((40, 333), dtype)
    mask = bnfast.dropout_mask(clean.shape, 0.5, seed=2)
    x = np.where(mask, clean, np.array(poison, dtype))
    y, ctx = bnfast.dropout(x, 0.5, seed=2, mode=mode)
    assert y.tobytes() == bnfast.dropout(clean, 0.5, seed=2, mode=mode)[0].tobytes()
    dx = bnfast.dropout_backward(x, ctx)
    assert np.isfinite(dx).all() and np.all(dx[~mask] == 0) and not np.signbit(dx[~mask]).any()
    kept_poison = np.where(mask, np.array(poison, dtype), clean)
    assert not np.isfinite(bnfast.dropout(kept_poison, 0.5, seed=2, mode=mode)[0][mask]).any()


@pytest.mark.parametrize("view", ["C", "F", "strided", "negative", "unaligned"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_place(dtype, mode, view):
    x = numbers((6, 5, 77), dtype)
    want, ctx = bnfast.dropout(x, 0.4, seed=3, mode=mode)
    gradient = bnfast.dropout_backward(x, ctx)
    inferred = bnfast.dropout_inference(x, 0.4, mode=mode)
    for call, result in (
        (lambda a: bnfast.dropout(a, 0.4, seed=3, mode=mode, out=a)[0], want),
        (lambda a: bnfast.dropout_backward(a, ctx, out=a), gradient),
        (lambda a: bnfast.dropout_inference(a, 0.4, mode=mode, out=a), inferred),
    ):
        memory = as_view(x, view).copy() if view == "C" else as_view(x, view)
        assert call(memory) is memory
        assert memory.tobytes() == result.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.3, 1.0])
def test_inference(rate, dtype):
    x = numbers((5, 6, 70), dtype)
    wide = arithmetic(dtype)
    want = (x.astype(wide) * wide(1 - rate)).astype(dtype)
    assert bnfast.dropout_inference(x, rate).tobytes() == want.tobytes()
    for mode in ("inverted", "alpha"):
        y = bnfast.dropout_inference(x, rate, mode=mode)
        assert y is not x and y.tobytes() == x.tobytes()


def test_arguments_are_not_written_to():
    x = numbers((50, 60))
    before = x.tobytes()
    _, ctx = bnfast.dropout(x, 0.5)
    bnfast.dropout_backward(x, ctx)
    bnfast.dropout_inference(x, 0.5)
    x.setflags(write=False)
    bnfast.dropout(x, 0.5)
    assert x.tobytes() == before


@pytest.mark.parametrize(
    ("shape", "axes", "shared"),
    [
        ((6, 8, 5, 7), (2, 3), (6, 8, 1, 1)),  # channels
        ((6, 8, 5, 7), (-1, -2), (6, 8, 1, 1)),
        ((6, 8, 5, 7), (1,), (6, 1, 5, 7)),  # places
        ((60, 8), (1,), (60, 1)),  # rows
        ((6, 80), (0,), (1, 80)),  # columns
        ((70,), (0,), (1,)),
        ((3, 4), [0, 1], (1, 1)),
        ((6, 8, 5), np.array([2]), (6, 8, 1)),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_broadcast_axes(shape, axes, shared, dtype):
    arguments = {"seed": 12, "offset": 5}
    x = numbers(shape, dtype)
    y, ctx = bnfast.dropout(x, 0.5, broadcast_axes=axes, **arguments)
    small = bnfast.dropout_mask(shared, 0.5, **arguments)
    mask = np.broadcast_to(small, shape)
    np.testing.assert_array_equal(y, np.where(mask, 2 * x, 0))
    np.testing.assert_array_equal(bnfast.dropout_backward(x, ctx), np.where(mask, 2 * x, 0))
    got = bnfast.dropout_mask(shape, 0.5, broadcast_axes=axes, **arguments)
    np.testing.assert_array_equal(got, mask)
    if small.size > 10:
        assert 0 < small.sum() < small.size


# --- seeds ------------------------------------------------------------------------------------


def test_seeds():
    x = np.ones(64, np.float32)
    drawn = [bnfast.dropout(x, 0.5)[1].seed for _ in range(50)]
    assert len(set(drawn)) == 50 and all(type(seed) is int and 0 <= seed < 2**64 for seed in drawn)
    assert max(drawn) >= 2**62 and {seed >> 63 for seed in drawn} == {0, 1}  # all 64 bits

    twice = [np.random.default_rng(3), np.random.default_rng(3)]
    seeds = [[bnfast.dropout(x, 0.5, seed=g)[1].seed for _ in range(3)] for g in twice]
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 3
    assert seeds[0][0] == int(np.random.default_rng(3).bit_generator.random_raw())

    y, ctx = bnfast.dropout(x, 0.5)
    again, _ = bnfast.dropout(x, 0.5, seed=ctx.seed)
    np.testing.assert_array_equal(y, again)
    assert bnfast.dropout(x, 0.5, seed=np.uint64(2**64 - 1))[1].seed == 2**64 - 1


@given(st.sampled_from(MODES), st.floats(0.01, 0.99), st.integers(0, 2**64 - 1))
@example("alpha", 0.5, 0)
def test_the_gradient_is_that_of_the_forward(mode, rate, seed):
    """Dropout is affine in x, so a difference of any length is exact but for rounding."""
    x, direction, dy = (numbers((6, 50), np.float64, k) for k in range(3))
    ahead, ctx = bnfast.dropout(x + direction, rate, seed=seed, mode=mode)
    slope = np.sum((ahead - bnfast.dropout(x, rate, seed=seed, mode=mode)[0]) * dy)
    scale = 1e-13 * np.sum(np.abs(dy)) * 20 / (1 - rate)
    assert abs(np.sum(bnfast.dropout_backward(dy, ctx) * direction) - slope) < scale


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axes", [(), (2, 3), (0,), (1,), (0, 2, 3)])
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2), (2, 0, 1, 3)])
def test_elements_in_another_order_than_c_by_several_tiles(dtype, axes, order):
    """The order of x in memory decides how it is cut, and nothing else."""
    x = np.random.default_rng(4).standard_normal((3, 300, 21, 31)).astype(dtype)
    memory = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    options = {"rate": 0.3, "seed": 9, "broadcast_axes": axes}
    want, ctx = bnfast.dropout(x, **options)
    got, _ = bnfast.dropout(memory, **options)
    assert got.strides == memory.strides and np.array_equal(got, want)
    assert np.array_equal(got != 0, bnfast.dropout_mask(x.shape, **options) & (x != 0))
    assert np.array_equal(
        bnfast.dropout_backward(memory, ctx, out=np.empty_like(x)), bnfast.dropout_backward(x, ctx)
    )
    every_other = bnfast.dropout(memory[:, ::2, :, 1::2], **options)[0]
    assert np.array_equal(
        every_other, bnfast.dropout(np.ascontiguousarray(x[:, ::2, :, 1::2]), **options)[0]
    )
    assert np.array_equal(bnfast.dropout(memory, out=memory, **options)[0], want)
