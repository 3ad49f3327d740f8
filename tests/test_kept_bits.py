"""The bits of a dropout behind the activation, wherever in their words a vector begins."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES

import bnfast

# Planes and rows whose runs begin at every place of a word; channels that are not whole vectors
# among the rows, more of them than have their bits prepared at once, and as many as go together.
SMALL = [
    ((3, 5, 331), 1),
    ((2, 37, 21, 21), 1),
    ((41, 7, 7, 7), 1),
    ((210, 322), -1),
    ((65, 999), -1),
    ((5, 10_007), -1),
    ((37, 2032), -1),
    ((37, 2064), -1),
]
# Results that one thread streams past the caches.
LARGE = [((9, 32, 61, 61), 1), ((4, 3, 297, 301), 1), ((1200, 1008), -1), ((5000, 217), -1)]
SHORT = ((2300, 33, 3, 5), 1)  # planes of less than a vector, which `where` has walked one by one


def shifted(a, by):
    """An array of zeros like `a` that begins `by` elements behind a cache line."""
    item = a.dtype.itemsize
    buffer = np.zeros(a.size + 128, a.dtype)
    start = (-buffer.ctypes.data % 64) // item + by
    return buffer[start : start + a.size].reshape(a.shape)


def check(shape, axis, dtype, by, activation, where=None):
    rng = np.random.default_rng(by)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    options = {"axis": axis, "activation": activation, "where": where}
    y, ctx = bnfast.batch_norm(x, **options, dropout=0.3, seed=by, out=shifted(x, by))
    grads = bnfast.batch_norm_backward(dy, ctx, out=shifted(x, by))
    kept = bnfast.dropout_mask(shape, 0.3, seed=by)
    plain, plain_ctx = bnfast.batch_norm(x, **options)
    np.testing.assert_array_equal(y[~kept], 0)
    np.testing.assert_array_equal(y[kept] != 0, plain[kept] != 0)
    if dtype in (np.float32, np.float64):  # 16-bit types skip the roundings in between
        want, mask = bnfast.dropout(plain, 0.3, seed=by)
        np.testing.assert_array_equal(y, want)
        want_grads = bnfast.batch_norm_backward(bnfast.dropout_backward(dy, mask), plain_ctx)
        for got, expected in zip(grads, want_grads, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("by", range(0, 32, 3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SMALL)
def test_small(shape, axis, dtype, by):
    check(shape, axis, dtype, by, "relu")


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("by", [0, 1, 12])
@pytest.mark.parametrize(("shape", "axis"), LARGE)
def test_large(shape, axis, by, activation):
    with bnfast.num_threads(1):
        check(shape, axis, np.float32, by, activation)


@pytest.mark.parametrize("by", range(0, 16, 5))
def test_planes_one_by_one(by):
    shape, axis = SHORT
    where = np.random.default_rng(1).random((shape[0], 1, *shape[2:])) < 0.8
    with bnfast.num_threads(1):
        check(shape, axis, np.float32, by, "relu", where)


# Channels that threads share: in whole planes or in parts, long and short ones (of which the last
# has fewer elements an outer index than bits are made at once).
SHARED = [
    (24, 2, 130, 130),
    (24, 1, 130, 130),
    (24, 2, 128, 128),
    (9, 1, 300, 301),
    (3000, 60, 5, 5),
    (2000, 3, 5, 5),
]


@pytest.mark.parametrize("shape", SHARED)
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_kept_bits_of_planes_that_threads_share(shape, threads):
    """The second sweep of all threads reads the bits that the first one made."""
    rng = np.random.default_rng(7)
    x, dy = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    with bnfast.num_threads(threads):
        y, ctx = bnfast.batch_norm(x, activation="relu", dropout=0.4, seed=11)
        grads = bnfast.batch_norm_backward(dy, ctx)
    plain, plain_ctx = bnfast.batch_norm(x, activation="relu")
    want, mask = bnfast.dropout(plain, 0.4, seed=11)
    want_grads = bnfast.batch_norm_backward(bnfast.dropout_backward(dy, mask), plain_ctx)
    np.testing.assert_array_equal(y, want)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_array_equal(a, b)
