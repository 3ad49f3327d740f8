"""Training with y written over x gives the same y, and gradients from y alone."""

from __future__ import annotations

import itertools
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from cases import BFLOAT16, DTYPES, TARGETS, VIEWS, Case, as_view, cases, channel_dtype, per_channel
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bnfast

pytestmark = pytest.mark.core

ACTIVATIONS = [None, "leaky_relu", "elu"]


@st.composite
def invertible(draw: st.DrawFn) -> Case:
    """Cases that may run in place: |gamma| near 1, either sign, |beta| up to 2."""
    case = draw(cases(masked=False))
    case.options.pop("residual", None)
    allowed = ACTIVATIONS if case.x.dtype.itemsize > 2 else ACTIVATIONS[:2]
    case.options["activation"] = draw(st.sampled_from(allowed))
    case.options["activation_slope"] = draw(st.sampled_from([0.01, 0.25, 1.5]))
    channels = case.x.shape[case.axis]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = channel_dtype(case.x.dtype)
    if case.gamma is not None:
        sign = rng.choice([-1, 1], channels)
        case.gamma = (sign * rng.uniform(0.5, 1.5, channels)).astype(kind)
    if case.beta is not None:
        case.beta = rng.uniform(-2, 2, channels).astype(kind)
    return case


def check_near_ordinary(case: Case, got: bnfast.BatchNormGrads, ctx, want) -> None:
    """Within the rounding of y: half a unit of y's dtype, divided by gamma, in (x - mean) / std."""
    dtype = case.x.dtype
    eps = float(ml_dtypes.finfo(dtype).eps)
    invstd = per_channel(ctx.invstd, case.x.ndim, case.axis).astype(np.float64)
    gamma = 1.0 if case.gamma is None else np.abs(per_channel(case.gamma, case.x.ndim, case.axis))
    # 0.5 <= |gamma|, |beta| <= 2; elu's inverse multiplies errors by exp(-z), z > -20 in cases.
    centred = np.abs(case.x.astype(np.float64) - per_channel(ctx.mean, case.x.ndim, case.axis))
    lost = 8 * eps * (centred * invstd + 4)
    if case.options["activation"] == "elu":
        z = np.minimum(case.beta.min() if case.beta is not None else 0.0, 0.0) - np.max(
            gamma * centred * invstd, initial=0
        )
        assume(z > -6)
        lost = lost * np.exp(-z)
    reduced = tuple(d for d in range(case.x.ndim) if d != case.axis)
    dy = np.abs(case.dy.astype(np.float64))
    largest = dy.max(axis=reduced, keepdims=True, initial=0) * max(
        1.0, case.options["activation_slope"]
    )
    lost = lost.max(axis=reduced, keepdims=True, initial=0)
    size = 1 + (centred * invstd).max(axis=reduced, keepdims=True, initial=0)
    allowed = 4 * gamma * invstd * largest * size * (lost + 4 * eps * size)
    both = (np.where(got.dx == want.dx, 0, dx).astype(np.float64) for dx in (got.dx, want.dx))
    off = np.abs(np.subtract(*both))  # both may be the same infinity in 16 bits
    spacing = np.abs(want.dx.astype(np.float64)) * eps + float(
        ml_dtypes.finfo(dtype).smallest_subnormal
    )
    assert (off <= allowed + 2 * spacing).all()
    terms = dy.sum(axis=reduced) * max(1.0, case.options["activation_slope"])
    for mine, theirs, factor in (
        (got.dbeta, want.dbeta, 1.0),
        (got.dgamma, want.dgamma, size.reshape(-1)),
    ):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            bound = terms * (lost.reshape(-1) + 4 * eps) * factor + 1e-44
            assert (np.abs(mine.astype(np.float64) - theirs) <= bound).all()


@settings(max_examples=200)
@given(invertible())
def test_in_place_is_the_ordinary_path(case):
    case.x = np.ascontiguousarray(case.x)  # one layout: bit for bit
    y, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    want = bnfast.batch_norm_backward(case.dy, ctx)
    memory = case.x.copy()
    again, ctx_in_place = bnfast.batch_norm(
        memory, case.gamma, case.beta, out=memory, **case.options
    )
    assert again is memory and memory.tobytes() == y.tobytes()
    assert ctx_in_place.moments == ctx.moments
    got = bnfast.batch_norm_backward(case.dy, ctx_in_place)
    assert memory.tobytes() == y.tobytes()  # backward reads y only
    check_near_ordinary(case, got, ctx, want)


@settings(max_examples=100)
@given(invertible(), st.sampled_from([view for view in VIEWS if view != "broadcast"]))
def test_views_in_place(case, view):
    memory = as_view(case.x.copy(), view)
    want, _ = bnfast.batch_norm(memory.copy(order="K"), case.gamma, case.beta, **case.options)
    y, ctx = bnfast.batch_norm(memory, case.gamma, case.beta, out=memory, **case.options)
    assert y is memory
    np.testing.assert_allclose(
        y.astype(float), want.astype(float), rtol=4 * float(ml_dtypes.finfo(y.dtype).eps), atol=1e-6
    )
    dense = y.copy()
    got = bnfast.batch_norm_backward(case.dy, ctx)
    assert y.tobytes() == dense.tobytes()
    ordinary = bnfast.batch_norm_backward(
        case.dy, bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)[1]
    )
    check_near_ordinary(case, got, ctx, ordinary)


def arrays(dtype, shape=(6, 37, 15, 17), seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 3 + 1).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    gamma = rng.uniform(0.5, 1.5, shape[1]) * rng.choice([-1, 1], shape[1])
    return x, dy, gamma, rng.uniform(-1, 1, shape[1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_bits_of_threads_and_targets(dtype, activation, axis):
    if activation == "elu" and dtype.itemsize == 2:
        pytest.skip("elu cannot be undone from 16 bits")
    x, dy, gamma, beta = arrays(dtype, (6, 37, 25, 27))
    if axis == -1:
        x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    seen = set()
    for threads, target in itertools.product((1, 2, 3), TARGETS):
        memory = x.copy()
        with bnfast.num_threads(threads), bnfast.use_target(target):
            y, ctx = bnfast.batch_norm(
                memory, gamma, beta, axis=axis, activation=activation, out=memory
            )
            grads = bnfast.batch_norm_backward(dy, ctx)
        seen.add((y.tobytes(), grads.dx.tobytes(), grads.dgamma.tobytes(), grads.dbeta.tobytes()))
    assert len(seen) == 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sums_of_two_workers(activation):
    x, dy, gamma, beta = arrays(np.float64)
    _, ctx = bnfast.batch_norm(x, gamma, beta, activation=activation)
    want = bnfast.batch_norm_backward(dy, ctx)
    stats = bnfast.moments(x[:2]) + bnfast.moments(x[2:])
    parts = [x[:2].copy(), x[2:].copy()]
    contexts = [
        bnfast.batch_norm(part, gamma, beta, activation=activation, stats=stats, out=part)[1]
        for part in parts
    ]
    total = sum(
        (
            bnfast.batch_norm_backward_sums(d, c)
            for d, c in zip((dy[:2], dy[2:]), contexts, strict=True)
        ),
        start=bnfast.GradientSums.empty(37),
    )
    grads = [
        bnfast.batch_norm_backward(d, c, sums=total)
        for d, c in zip((dy[:2], dy[2:]), contexts, strict=True)
    ]
    dx = np.concatenate([g.dx for g in grads])
    np.testing.assert_allclose(dx, want.dx, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads[0].dgamma + grads[1].dgamma, want.dgamma, rtol=1e-11)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_frozen_in_place(activation):
    x, dy, gamma, beta = arrays(np.float64)
    mean, var = np.full(37, 0.5), np.full(37, 4.0)
    y, ctx = bnfast.batch_norm_frozen(x, mean, var, gamma, beta, activation=activation)
    want = bnfast.batch_norm_backward(dy, ctx)
    memory = x.copy()
    again, ctx = bnfast.batch_norm_frozen(
        memory, mean, var, gamma, beta, activation=activation, out=memory
    )
    assert again is memory and again.tobytes() == y.tobytes()
    got = bnfast.batch_norm_backward(dy, ctx)
    np.testing.assert_allclose(got.dx, want.dx, rtol=0, atol=1e-13)
    np.testing.assert_allclose(got.dgamma, want.dgamma, rtol=1e-10)


def test_constant_channels_and_no_elements():
    x = np.full((4, 2, 3), 7.0, np.float32)
    y, ctx = bnfast.batch_norm(x, np.full(2, 2.0), np.ones(2), eps=0.0, out=x)
    assert (y == 1).all()
    grads = bnfast.batch_norm_backward(np.ones_like(x), ctx)
    assert not grads.dx.any() and not grads.dgamma.any() and (grads.dbeta == 12).all()
    empty = np.empty((0, 2, 3), np.float32)
    y, ctx = bnfast.batch_norm(empty, np.ones(2), np.ones(2), out=empty)
    assert bnfast.batch_norm_backward(empty, ctx).dbeta.tolist() == [0, 0]


def test_saturated_elu_gives_numbers():
    x = np.array([[-1e4], [0.0], [1e4], [1e4], [1e4], [1e4]], np.float32)
    y, ctx = bnfast.batch_norm(x, np.full(1, 50.0), np.zeros(1), activation="elu", out=x)
    assert y[0] == -1  # all digits of its argument are gone
    grads = bnfast.batch_norm_backward(np.ones_like(x), ctx)
    assert np.isfinite(grads.dx).all() and np.isfinite(grads.dgamma).all()


@pytest.mark.parametrize(
    ("dtype", "digits"), list(zip(DTYPES, (24, 53, 11, 8), strict=True)), ids=str
)
def test_the_smallest_gamma(dtype, digits):
    """Half the digits: |beta / gamma| up to 2**(digits // 2)."""
    x, _, _, _ = arrays(dtype, (6, 3, 5))
    beta = np.array([0.0, -1.0, 1.0])
    smallest = 2.0 ** -(digits // 2)
    gamma = np.array([1.0, smallest, -smallest])
    bnfast.batch_norm(x.copy(), gamma, beta, out=None)
    memory = x.copy()
    bnfast.batch_norm(memory, gamma, beta, out=memory)
    gamma[2] *= 0.999
    memory = x.copy()
    with pytest.raises(ValueError, match=r"batch_norm: gamma is -.* in channel 2, expected at"):
        bnfast.batch_norm(memory, gamma, beta, out=memory)
    assert memory.tobytes() == x.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gamma", [0.0, -0.0, np.nan, "denormal"])
def test_gamma_that_cannot_be_undone(dtype, gamma):
    x, _, _, _ = arrays(dtype, (6, 3, 5))
    if gamma == "denormal":
        gamma = 4 * float(ml_dtypes.finfo(dtype).smallest_subnormal)
        kind = np.float64
    else:
        kind = np.float32
    memory = x.copy()
    with pytest.raises(ValueError, match=r"gamma is .* in channel 1, expected at least"):
        bnfast.batch_norm(memory, np.array([1, gamma, 1], kind), out=memory)
    assert memory.tobytes() == x.tobytes()


def test_a_small_slope_counts_as_a_small_gamma():
    x, _, _, _ = arrays(np.float32, (6, 3, 5))
    with pytest.raises(ValueError, match="gamma is 1 in channel 0, expected at least"):
        bnfast.batch_norm(x, activation="leaky_relu", activation_slope=1e-42, out=x)


def test_ctx_keeps_y_and_nothing_else_of_its_size():
    x = np.ones((256, 64, 16, 16), np.float32)
    tracemalloc.start()
    try:
        _, ctx = bnfast.batch_norm(x, np.ones(64), np.zeros(64), activation="leaky_relu", out=x)
        bnfast.batch_norm_backward(x.copy(), ctx, out=None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.2 * x.nbytes  # the copy and dx


def test_bfloat16_elu_is_refused_before_anything_is_written():
    x = np.ones((4, 3, 5), BFLOAT16)
    with pytest.raises(ValueError, match="expected another activation than elu for x of bfloat16"):
        bnfast.batch_norm(x, activation="elu", out=x)
    assert (x == 1).all()
