"""Inference with given statistics: the textbook, views, in place, edges of var and eps."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import reference
from cases import ACTIVATIONS, DTYPES, VIEWS, as_view, assert_near, cases, spread, z_size
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfast


def statistics(case, seed=0):
    generator = np.random.default_rng(seed)
    channels = case.x.shape[case.axis]
    return generator.normal(size=channels), generator.uniform(0.1, 2, channels)


@settings(max_examples=300)
@given(cases(masked=False), st.sampled_from([view for view in VIEWS if view != "broadcast"]))
def test_inference_is_the_textbook(case, view):
    stats = statistics(case)
    out = as_view(np.full(case.x.shape, 55, case.x.dtype), view)
    y = bnfast.batch_norm_inference(case.x, *stats, case.gamma, case.beta, out=out, **case.options)
    assert y is out
    want, ref = reference.batch_norm(case.x, case.gamma, case.beta, stats=stats, **case.options)
    size = spread(z_size(case, ref), case.x, case.axis)
    assert_near(y, want, np.abs(want) + 1.2 * size)


@settings(max_examples=100)
@given(cases(masked=False))
def test_in_place_is_the_same(case):
    stats = statistics(case)
    want = bnfast.batch_norm_inference(case.x, *stats, case.gamma, case.beta, **case.options)
    x = case.x if case.x.flags.writeable else case.x.copy()
    got = bnfast.batch_norm_inference(x, *stats, case.gamma, case.beta, out=x, **case.options)
    assert got is x and got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(3, 4, 9001), (3000, 70), (300, 5, 31)])
def test_training_with_the_same_statistics(shape, activation, dtype, target):
    x = np.random.default_rng(1).normal(2, 1, shape).astype(dtype)
    beta = np.linspace(-1, 1, shape[1])
    y, ctx = bnfast.batch_norm(x, None, beta, activation=activation)
    again = bnfast.batch_norm_inference(
        x, ctx.moments.mean, ctx.moments.var(), None, beta, activation=activation
    )
    size = 1 + np.abs(y.astype(np.float64))
    assert_near(again, y, size, units=64 if dtype != np.float64 else 4096)


def test_var_zero_with_eps_zero_gives_beta():
    x = np.array([[1.0], [2.0]], np.float32)
    y = bnfast.batch_norm_inference(x, np.ones(1), np.zeros(1), None, np.array([0.25]), eps=0.0)
    np.testing.assert_array_equal(y, [[0.25], [0.25]])


def test_nan_passes_and_stays_in_place():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    x[1, 2] = np.nan
    for activation in ACTIVATIONS:
        y = bnfast.batch_norm_inference(x, np.zeros(3), np.ones(3), activation=activation)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


@pytest.mark.parametrize("eps_placement", ["var", "std"])
def test_eps_placement(eps_placement):
    x = np.array([[3.0]])
    y = bnfast.batch_norm_inference(
        x, np.array([1.0]), np.array([9.0]), eps=7.0, eps_placement=eps_placement
    )
    assert y[0, 0] == {"var": 0.5, "std": 0.2}[eps_placement]


def test_huge_float64_var():
    x = np.array([[2e30], [-2e30]], np.float32)
    y = bnfast.batch_norm_inference(x, np.zeros(1), np.array([4e60]))
    np.testing.assert_allclose(y, [[1], [-1]], rtol=1e-6)


@pytest.mark.parametrize("layout", ["planes", "rows"])
@pytest.mark.parametrize("gamma", [1.0, 1.5, 1.25, 1.0078125, 0.3, -3e-3])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_16_bit_number_is_read_and_rounded_to_nearest_even(dtype, gamma, layout):
    # Denormals, infinities, NaN; 1.5 and 1.25 times a short mantissa are ties in many cases.
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype).reshape(256, 256)
    shape = (256, 256) if layout == "rows" else (2, 128, 256)
    channels = shape[1]
    y = bnfast.batch_norm_inference(
        x.reshape(shape), np.zeros(channels), np.ones(channels), np.full(channels, gamma), eps=0.0
    ).reshape(x.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        want = (x.astype(np.float32) * np.float32(gamma) + np.float32(0)).astype(dtype)
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(y), nan)
    np.testing.assert_array_equal(y[~nan].view(np.uint16), want[~nan].view(np.uint16))


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_no_nan_becomes_a_number_when_it_is_rounded(dtype, bits):
    gamma = np.full(40, bits, np.uint32).view(np.float32)
    x = np.ones((3, 40), dtype)
    assert np.isnan(bnfast.batch_norm_inference(x, np.zeros(40), np.ones(40), gamma)).all()
