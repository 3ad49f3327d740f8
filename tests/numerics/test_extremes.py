"""float64 channels whose squares are beyond float64 are normalised as in extended precision."""

from __future__ import annotations

import os

import numpy as np
import pytest
from borders import LARGE, SMALL
from cases import Wide
from programs import python

import bnfast

pytestmark = pytest.mark.core

if np.finfo(Wide).maxexp <= 2048:
    pytest.skip("long double is no wider than float64 here", allow_module_level=True)

SCALES = [1e-300, 1e-200, 1e-160, 1e-150, 1e-120, 1e100, 1e150, 1e160, 1e200, 1e303, 3e306]
SHAPES = [*SMALL[::6], LARGE[1]]


def data(shape, axis, scale, offset=0.0, seed=0):
    """Every other channel of ordinary size, the rest `scale` wide and `offset` deviations off."""
    generator = np.random.default_rng(seed)
    x, dy = generator.standard_normal((2, *shape))
    size = np.ones(shape[axis])
    size[::2] = scale
    x += offset
    return np.moveaxis(np.moveaxis(x, axis, -1) * size, -1, axis), dy


def wide_batch_norm(x, dy, axis, eps, eps_placement, gamma, beta, kept=True):
    """y, dx, mean, 1 / deviation and dgamma in extended precision, channels first and flat."""
    x, dy = (np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1).astype(Wide) for a in (x, dy))
    kept = np.broadcast_to(kept, x.shape)
    gamma, beta = (np.asarray(a, Wide)[:, None] for a in (gamma, beta))
    n = kept.sum(1, keepdims=True)

    def mean(a):
        return np.where(kept, a, 0).sum(1, keepdims=True) / n

    centred = x - mean(x)
    std = np.sqrt(mean(centred**2))
    if eps_placement == "var":
        inverse = 1 / np.hypot(std, np.sqrt(Wide(eps)))
        slope = inverse**2
    else:
        inverse = 1 / (std + Wide(eps))
        slope = inverse / std
    normalised = np.where(kept, centred * inverse, 0)
    y = normalised * gamma + beta
    dx = gamma * inverse * (dy - mean(dy) - centred * slope * mean(dy * centred))
    dgamma = (dy * normalised).sum(1)
    return np.where(kept, y, 0), np.where(kept, dx, 0), mean(x)[:, 0], inverse[:, 0], dgamma


def flat(a, axis):
    return np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1)


def assert_close(got, want, size, digits=2e-13):
    """Within `digits` of `size`, and of the smallest numbers that float64 has."""
    allowed = digits * np.asarray(size, Wide) + Wide(4) * np.finfo(np.float64).smallest_subnormal
    off = np.abs(got.astype(Wide) - want)
    assert np.all(off <= allowed), f"{np.max(off / allowed)} times what is allowed"


def check(x, dy, axis, eps=0.0, eps_placement="var", where=None, digits=2e-13):
    channels = x.shape[axis]
    gamma, beta = np.linspace(0.5, 2, channels), np.linspace(-1, 1, channels)
    options = {"axis": axis, "eps": eps, "eps_placement": eps_placement, "where": where}
    y, ctx = bnfast.batch_norm(x, gamma, beta, **options)
    grads = bnfast.batch_norm_backward(dy, ctx)
    kept = True if where is None else flat(np.broadcast_to(where, x.shape), axis)
    want_y, want_dx, mean, inverse, dgamma = wide_batch_norm(
        x, dy, axis, eps, eps_placement, gamma, beta, kept
    )
    assert_close(flat(y, axis), want_y, 8, digits)
    assert_close(flat(grads.dx, axis), want_dx, (8 * gamma * inverse)[:, None], digits)
    assert_close(ctx.mean, mean, np.abs(mean) + 1 / inverse, digits)
    assert_close(ctx.invstd, inverse, inverse, digits)
    assert_close(grads.dgamma, dgamma, 4 * np.abs(dy).sum(), digits)
    m = bnfast.moments(x, axis=axis, where=where)
    assert m == ctx.moments
    return y, ctx, grads


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("scale", SCALES)
def test_any_size(scale, shape, axis):
    x, dy = data(shape, axis, scale)
    y, ctx, grads = check(x, dy, axis)
    with bnfast.num_threads(1):
        again, ctx = bnfast.batch_norm(
            x, np.linspace(0.5, 2, shape[axis]), np.linspace(-1, 1, shape[axis]), axis=axis, eps=0.0
        )
        assert np.array_equal(y, again)
        assert np.array_equal(grads.dx, bnfast.batch_norm_backward(dy, ctx).dx)


@pytest.mark.parametrize("eps_placement", ["var", "std"])
@pytest.mark.parametrize("eps", [0.0, 5e-324, 1e-310, 1e-220, 1e-150, 1e-5, 1e5])
@pytest.mark.parametrize("scale", SCALES)
def test_any_eps(scale, eps, eps_placement):
    x, dy = data((7, 6, 50), 1, scale)
    check(x, dy, 1, eps, eps_placement)


@pytest.mark.parametrize("scale", SCALES)
def test_far_from_zero(scale):
    if scale > 1e306:
        scale = 1e300  # or x itself is beyond float64
    x, dy = data((7, 6, 50), 1, scale, offset=1e4)
    check(x, dy, 1, digits=1e-10)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("scale", [1e-200, 1e160, 1e303])
def test_where(scale, shape, axis):
    x, dy = data(shape, axis, scale)
    one = list(shape)
    one[axis] = 1
    where = np.random.default_rng(1).random(one) < 0.7
    check(np.where(where, x, np.nan), dy, axis, where=where)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-160, 1.0, 1e160, 1e200, 1e300])
@pytest.mark.parametrize("gamma", [1e-300, 1e-200, 1e-20, 1e20, 1e160, 1e200, 1e290])
def test_any_gamma(scale, gamma):
    """The product of gamma and 1 / deviation is beyond float64 where y is an ordinary number."""
    if abs(np.log10(gamma) - np.log10(scale)) > 460:
        pytest.skip("not even times 2**512 is it a number")
    x, dy = data((7, 6, 50), 1, scale)
    y, ctx = bnfast.batch_norm(x, np.full(6, gamma), np.full(6, gamma), eps=0.0)
    want = wide_batch_norm(x, dy, 1, 0.0, "var", np.full(6, gamma), np.full(6, gamma))[0]
    assert_close(flat(y, 1), want, 8 * gamma)
    frozen = bnfast.batch_norm_frozen(x, ctx.mean, ctx.var, np.full(6, gamma), eps=0.0)[0]
    assert not np.isnan(frozen).any()


@pytest.mark.parametrize("eps", [1e-320, 1e-300, 1e-200])
def test_a_constant_channel_of_extreme_gamma_gives_beta(eps):
    x, gamma, beta = np.full((4, 1), 3.0), np.full(1, 1e250), np.full(1, 5.0)
    assert np.all(bnfast.batch_norm(x, gamma, beta, eps=eps)[0] == 5)
    y = bnfast.batch_norm_inference(x, np.full(1, 3.0), np.zeros(1), gamma, beta, eps=eps)
    assert np.all(y == 5)


NO_MEMORY = """
import resource, sys
import numpy as np
import bnfast
x = np.random.default_rng(0).standard_normal((2, 3, 1_500_000)) * 1e160
out = np.empty_like(x)
bnfast.batch_norm(np.ones((200, 3, 1000)), out=np.empty((200, 3, 1000)))  # the threads are there
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20),) * 2)
y, ctx = bnfast.batch_norm(x, out=out)
assert abs(y[0, 0, :1000].std() - 1) < 0.1
"""


@pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="its shadow has no limit")
def test_little_memory_is_enough():
    done = python("-c", NO_MEMORY, BNFAST_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


def test_both_ends_of_float64():
    most = np.finfo(np.float64).max
    x = np.array([[most], [-most], [most / 2], [0.0]])
    check(x, np.array([[1.0], [2.0], [-1.0], [0.5]]), 1)


@pytest.mark.parametrize("scale", [1e-200, 1e160, 1e303])
def test_in_place(scale):
    x, dy = data((7, 6, 50), 1, scale)
    one, zero = np.ones(6), np.zeros(6)
    want = wide_batch_norm(x, dy, 1, 0.0, "var", one, zero)[1]
    y, ctx = bnfast.batch_norm(x, one, zero, eps=0.0, out=x)
    assert y is x
    got = flat(bnfast.batch_norm_backward(dy, ctx).dx, 1)
    assert_close(got, want, 8 * ctx.invstd[:, None], 1e-12)


@pytest.mark.parametrize("scale", [1e-120, 1e150, 1e160, 1e303])
def test_dropout_measures_in_another_order(scale):
    """With dropout and channels last, x is measured apart from being normalised."""
    x, _ = data((9, 11, 6), -1, scale)
    x = np.moveaxis(x, -1, 1)
    y, ctx = bnfast.batch_norm(x, eps=0.0, dropout=0.5, seed=1)
    plain, plain_ctx = bnfast.batch_norm(x, eps=0.0)
    assert np.all(plain.std((0, 2)) > 0.999)
    assert np.array_equal(y, np.where(y == 0, 0, 2 * plain))
    assert ctx.moments == plain_ctx.moments and np.array_equal(ctx.invstd, plain_ctx.invstd)


@pytest.mark.parametrize("scale", [1e-120, 1e100, 1e150])
def test_given_moments_give_the_same_bits(scale):
    """As long as m2 is a number of float64."""
    x, dy = data((7, 6, 50), 1, scale)
    y, ctx = bnfast.batch_norm(x, eps=0.0)
    again, again_ctx = bnfast.batch_norm(x, eps=0.0, stats=bnfast.moments(x))
    assert np.array_equal(y, again)
    sums = bnfast.batch_norm_backward_sums(dy, again_ctx)
    want = bnfast.batch_norm_backward(dy, ctx)
    assert_close(
        bnfast.batch_norm_backward(dy, again_ctx, sums=sums).dx,
        want.dx.astype(Wide),
        8 * ctx.invstd[:, None],
    )


def test_moments_of_extremes_have_their_mean():
    x = np.array([[1e303], [3e303]])
    m = bnfast.moments(x)
    assert m.mean[0] == 2e303 and m.m2[0] == np.inf
    assert bnfast.moments(np.array([[1e-200], [3e-200]])).mean[0] == 2e-200


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(bad):
    x, _ = data((7, 6, 50), 1, 1e160)
    want = bnfast.batch_norm(x)[0]
    x[3, 2, 7] = bad
    y, ctx = bnfast.batch_norm(x)
    assert np.isnan(y[:, 2]).all() and np.isnan(ctx.var[2])
    others = [0, 1, 3, 4, 5]
    assert np.array_equal(y[:, others], want[:, others])


@pytest.mark.parametrize("value", [0.0, 1e-300, -1e160, 1.7e308])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_a_constant_channel_gives_beta(value, eps):
    x = np.full((7, 3, 50), value)
    beta = np.array([1.0, 2.0, 3.0])
    y, ctx = bnfast.batch_norm(x, None, beta, eps=eps)
    assert np.array_equal(y, np.broadcast_to(beta[:, None], x.shape))
    assert np.all(bnfast.batch_norm_backward(np.ones_like(x), ctx).dx == 0)
