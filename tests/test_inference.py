"""With given statistics y is the textbook's, and gradients take mean and var as constants."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import (
    ACTIVATIONS,
    DTYPES,
    VIEWS,
    as_view,
    assert_near,
    assert_same_bits,
    away_from_kinks,
    cases,
    check_gradients,
    numbers,
    spread,
    z_size,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bnfast

pytestmark = pytest.mark.core


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
    assert got is x
    assert_same_bits([got], [want])


@settings(max_examples=100)
@given(cases(masked=False))
def test_frozen_is_inference_whose_gradients_take_statistics_as_constants(case):
    stats = statistics(case, seed=1)
    y, ctx = bnfast.batch_norm_frozen(case.x, *stats, case.gamma, case.beta, **case.options)
    same = bnfast.batch_norm_inference(case.x, *stats, case.gamma, case.beta, **case.options)
    assert_same_bits([same], [y])
    _, ref = reference.batch_norm(case.x, case.gamma, case.beta, stats=stats, **case.options)
    assume(away_from_kinks(case, ref))
    check_gradients(case, bnfast.batch_norm_backward(case.dy, ctx), ref, frozen=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(3, 4, 901), (300, 70), (30, 5, 31)])
def test_training_with_the_same_statistics(shape, activation):
    beta = np.linspace(-1, 1, shape[1])
    for dtype in DTYPES:
        x = numbers(shape, dtype)
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


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_statistics_and_parameters_of_many_channels_are_read_whatever_their_strides(threads):
    channels = 9001
    x = numbers((6, channels))
    gamma, var = np.random.default_rng(4).uniform(0.5, 2, (2, channels))
    beta = numbers((channels,), np.float64)
    mean = beta[::-1]  # against the order of memory
    wide = np.zeros((channels, 3), np.float32)
    wide[:, 1] = gamma
    with bnfast.num_threads(threads):
        got = bnfast.batch_norm_inference(x, mean, var, wide[:, 1], beta)
        want = bnfast.batch_norm_inference(
            x, mean.copy(), var, gamma.astype(np.float32).astype(np.float64), beta.copy()
        )
    assert_same_bits([got], [want])
    z = (x - mean) / np.sqrt(var + 1e-5) * wide[:, 1] + beta
    np.testing.assert_allclose(got, z, rtol=1e-5, atol=1e-5)
