"""Rows of whole vectors: several at once in the cache, their bits of dropout kept."""

import ml_dtypes
import numpy as np
import pytest

import bnfast

# (rows, channels): one vector and more, rows left over, several blocks of rows, batches of bits
# that are of one row (multiples of 256) or of several, rows whole pages apart.
SHAPES = [
    (37, 16),
    (51, 64),
    (523, 256),
    (70, 320),
    (1030, 512),
    (19, 768),
    (38, 1024),
    (600, 1280),
]
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


def inputs(shape, dtype):
    rng = np.random.default_rng(11)
    return [(2 * rng.standard_normal(shape) + 1).astype(dtype) for _ in range(3)]


def with_gaps(a):
    """A view of the same values whose rows do not touch: each is walked by itself."""
    wide = np.zeros((a.shape[0], a.shape[1] + 24), a.dtype)
    wide[:, : a.shape[1]] = a
    return wide[:, : a.shape[1]]


def misaligned(a):
    """A copy that begins three elements behind a cache line."""
    item = a.dtype.itemsize
    buffer = np.empty(a.size + 128, a.dtype)
    start = (-buffer.ctypes.data % 64) // item + 3
    view = buffer[start : start + a.size].reshape(a.shape)
    view[...] = a
    return view


def affine(channels):
    rng = np.random.default_rng(5)
    return rng.uniform(0.5, 2, channels), rng.standard_normal(channels)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("copy", [np.copy, misaligned])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_give_the_bits_of_each_by_itself(shape, dtype, copy, activation):
    x, residual, dy = inputs(shape, dtype)
    gamma, beta = affine(shape[1])

    def results(form):
        out, dx = form(np.zeros_like(x)), form(np.zeros_like(x))
        y, ctx = bnfast.batch_norm(
            form(x), gamma, beta, residual=form(residual), activation=activation, out=out
        )
        grads = bnfast.batch_norm_backward(form(dy), ctx, out=dx)
        return y, *grads

    for a, b in zip(results(copy), results(with_gaps), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("copy", [np.copy, misaligned])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_dropout_of_wide_rows_is_that_of_separate_calls(shape, dtype, copy, activation, threads):
    """Where results do not begin at a line, vectors begin anywhere in a word of bits."""
    x, _, dy = inputs(shape, dtype)
    gamma, beta = affine(shape[1])
    out, dx = copy(np.zeros_like(x)), copy(np.zeros_like(x))
    options = {"activation": activation, "dropout": 0.3, "seed": 7}
    with bnfast.num_threads(threads):
        y, ctx = bnfast.batch_norm(x, gamma, beta, **options, out=out)
        grads = bnfast.batch_norm_backward(dy, ctx, out=dx)
        plain, plain_ctx = bnfast.batch_norm(x, gamma, beta, activation=activation)
        want, mask = bnfast.dropout(plain, 0.3, seed=7)
        want_grads = bnfast.batch_norm_backward(bnfast.dropout_backward(dy, mask), plain_ctx)
    np.testing.assert_array_equal(y, want)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_array_equal(a, b)
