"""The dropout mask in NumPy, from Philox4x32-10 up: the readable specification."""

from __future__ import annotations

import math

import numpy as np

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
