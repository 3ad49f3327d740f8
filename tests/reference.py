"""Batch norm and the dropout mask as the literature has them: the readable specification."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

Wide = np.longdouble  # 64 bits of mantissa on x86-64: far more than any result is compared to


def _normal_tail(z):
    """Phi(z), the normal distribution function, from float64's erfc and its slope."""
    t = -z / np.sqrt(Wide(2))
    near = t.astype(np.float64)
    erfc = np.vectorize(math.erfc, otypes=[Wide])(near)
    slope = -2 / np.sqrt(Wide(np.pi)) * np.exp(-(near.astype(Wide) ** 2))
    return (erfc + slope * np.where(np.isfinite(t), t - near, 0)) / 2


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def activate(z, name, slope=0.01):
    """Return act(z) and its derivative; z is wide."""
    if name is None:
        return z, np.ones_like(z)
    if name == "relu":  # np.maximum keeps NaN
        return np.maximum(z, 0), np.where(z > 0, Wide(1), Wide(0))
    if name == "leaky_relu":
        return np.where(z > 0, z, slope * z), np.where(z > 0, Wide(1), Wide(slope))
    if name == "sigmoid":
        return _sigmoid(z), _sigmoid(z) * _sigmoid(-z)
    if name == "tanh":
        return np.tanh(z), 1 / np.cosh(z) ** 2
    if name == "silu":
        s = _sigmoid(z)
        return z * s, s * (1 + z * _sigmoid(-z))
    if name == "gelu":
        density = np.exp(-z * z / 2) / np.sqrt(2 * Wide(np.pi))
        return z * _normal_tail(z), _normal_tail(z) + z * density
    if name == "elu":
        return np.where(z > 0, z, np.expm1(np.minimum(z, 0))), np.exp(np.minimum(z, 0))
    raise AssertionError(name)


def channels_first(array, axis):
    """The array as (channels, elements of a channel)."""
    moved = np.moveaxis(np.asarray(array), axis, 0)
    return moved.reshape(moved.shape[0], math.prod(moved.shape[1:])).astype(Wide)


def _like(flat, x, axis):
    """The inverse of channels_first."""
    return np.moveaxis(flat.reshape(np.moveaxis(x, axis, 0).shape), 0, axis)


def _mask(where, x, axis):
    """`where` as a row of bool, one entry an element of a channel."""
    where = True if where is None else where
    if np.ndim(where) == x.ndim:
        where = np.squeeze(where, axis)
    return np.broadcast_to(where, np.delete(x.shape, axis)).reshape(-1)


def moments(x, *, axis=1, where=None):
    """Count, mean and biased variance of every channel."""
    chosen = channels_first(x, axis)[:, _mask(where, x, axis)]
    count = chosen.shape[1]
    mean = chosen.sum(1) / max(count, 1)
    return count, mean, ((chosen - mean[:, None]) ** 2).sum(1) / max(count, 1)


def batch_norm(x, gamma=None, beta=None, *, axis=1, eps=1e-5, residual=None, activation=None,
               activation_slope=0.01, where=None, stats=None, eps_placement="var"):  # fmt: skip
    """Return y and what backward needs; `stats` is (mean, var) to use in place of x's own."""

    def column(values, absent):
        return (np.full(x.shape[axis], absent) if values is None else values).astype(Wide)[:, None]

    kept = _mask(where, x, axis)
    mean, var = moments(x, axis=axis, where=where)[1:] if stats is None else stats
    mean, var, gamma, beta = column(mean, 0), column(var, 1), column(gamma, 1), column(beta, 0)
    std = np.sqrt(var + eps) if eps_placement == "var" else np.sqrt(var) + eps
    invstd = np.divide(1, std, out=np.zeros_like(std), where=std > 0)
    centred = np.where(kept, channels_first(x, axis), mean) - mean
    added = 0 if residual is None else np.where(kept, channels_first(residual, axis), 0)
    z = gamma * centred * invstd + beta + added
    value, slope = activate(z, activation, activation_slope)
    ctx = SimpleNamespace(x=x, axis=axis, kept=kept, mean=mean, var=var, gamma=gamma, invstd=invstd,
                          centred=centred, z=z, slope=slope, eps_placement=eps_placement, beta=beta,
                          added=np.abs(added))  # fmt: skip
    return _like(np.where(kept, value, 0), x, axis), ctx


def backward_sums(dy, ctx):
    """Count, sum of dz and of dz * (x - mean), dz the gradient at the activation's argument."""
    dz = np.where(ctx.kept, channels_first(dy, ctx.axis), 0) * ctx.slope
    return ctx.kept.sum(), dz.sum(1), (dz * ctx.centred).sum(1)


def batch_norm_backward(dy, ctx, *, sums=None, frozen=False):
    """Return dx, dgamma, dbeta, dresidual; `frozen`: mean and var do not depend on x."""
    dz = np.where(ctx.kept, channels_first(dy, ctx.axis), 0) * ctx.slope
    own = backward_sums(dy, ctx)
    count, sum_dz, sum_dz_xmu = own if sums is None else sums
    inner = dz
    if not frozen and np.all(count > 0):
        std = np.sqrt(ctx.var)
        over_std = np.divide(1, std, out=np.zeros_like(std), where=std > 0)
        square = ctx.invstd * (ctx.invstd if ctx.eps_placement == "var" else over_std)
        inner = (
            dz - (sum_dz / count)[:, None] - ctx.centred * square * (sum_dz_xmu / count)[:, None]
        )
    dx = np.where(ctx.kept, ctx.gamma * ctx.invstd * inner, 0)
    dgamma = own[2] * ctx.invstd[:, 0]
    return _like(dx, ctx.x, ctx.axis), dgamma, own[1], _like(dz, ctx.x, ctx.axis)


# --- dropout: the mask, from Philox4x32-10 up ----------------------------------------------------

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57  # Salmon et al. 2011, section 3.3 and Random123's philox.h
WEYL = 0x9E3779B9, 0xBB67AE85  # golden ratio and sqrt(3) - 1
LOW = np.uint64(0xFFFFFFFF)


def philox4x32(counter, key):
    """Return the four output words; a counter is four words (arrays of them), a key two."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        low0, low1, high0, high1 = p0 & LOW, p1 & LOW, p0 >> np.uint64(32), p1 >> np.uint64(32)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(k0), low1, high0 ^ c3 ^ np.uint64(k1), low0
        k0, k1 = (k0 + WEYL[0]) % 2**32, (k1 + WEYL[1]) % 2**32
    return c0, c1, c2, c3


def words(c, seed, offset):
    """Return the words of 64-bit counter c in a stream, stacked: (4, ...)."""
    high = np.full(c.shape, offset >> 32, np.uint64)
    low = np.full(c.shape, offset % 2**32, np.uint64)
    return np.stack(
        philox4x32((c & LOW, c >> np.uint64(32), low, high), (seed % 2**32, seed >> 32))
    )


def uniform16(i, seed, offset):
    """Return u of elements i: 16 bits each."""
    i = np.asarray(i, np.uint64)
    g, k, lane = i >> np.uint64(7), (i >> np.uint64(4)) & np.uint64(7), i & np.uint64(15)
    four = words(np.uint64(16) * g + lane, seed, offset)
    word = np.take_along_axis(four, (k >> np.uint64(1)).astype(np.intp)[None], 0)[0]
    return (word >> (np.uint64(16) * (k & np.uint64(1)))) & np.uint64(0xFFFF)


def tie_breaker(i, seed, offset):
    """Return v of elements i: the 32 bits that decide where u does not."""
    i = np.asarray(i, np.uint64)
    four = words(i >> np.uint64(2), seed, offset + 2**63)
    return np.take_along_axis(four, (i & np.uint64(3)).astype(np.intp)[None], 0)[0]


def threshold(rate):
    """Return K: the probability of being kept, in units of 2**-48."""
    return round((1.0 - rate) * 2**48)


def is_tie(i, rate, seed, offset):
    """Return where u alone does not decide."""
    return uniform16(i, seed, offset) == threshold(rate) >> 32


def kept(i, rate, seed, offset):
    """Return whether elements i, a 1-D array of uint64, are kept."""
    u = uniform16(i, seed, offset)
    first, second = threshold(rate) >> 32, threshold(rate) % 2**32
    result = u < np.uint64(first)
    ties = np.flatnonzero(u == np.uint64(first))
    result[ties] = tie_breaker(i[ties], seed, offset) < np.uint64(second)
    return result


def dropout_mask(shape, rate, *, seed, offset=0, broadcast_axes=()):
    """Return the mask of an array: True where kept."""
    shared = {axis % len(shape) for axis in broadcast_axes}
    own = [1 if d in shared else n for d, n in enumerate(shape)]
    i = np.arange(math.prod(own), dtype=np.uint64)
    return np.broadcast_to(kept(i, rate, seed, offset).reshape(own), shape).copy()
