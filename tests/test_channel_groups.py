"""Many channels of few elements: each thread measures and normalises channels of its own."""

import ml_dtypes
import numpy as np
import pytest

import bnfast

# (rows, channels): runs of a group that end in whole vectors and that do not, few rows with short
# runs, more rows with long ones, two blocks of rows, and rows too many to be grouped.
ROWS = [(5, 4099), (8, 10_000), (64, 512), (60, 1031), (33, 2048), (70, 4100), (513, 2176)]
PLANES = [(2, 5000, 2, 2), (3, 4100, 3), (1, 1030, 7, 7)]
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
THREADS = [2, 3]


def inputs(shape, dtype):
    rng = np.random.default_rng(3)
    return [(2 * rng.standard_normal(shape) + 1).astype(dtype) for _ in range(3)]


def per_channel(channels):
    rng = np.random.default_rng(4)
    return [rng.uniform(0.5, 2, channels), *rng.standard_normal((2, channels))]


def pieces(channels, threads):
    """Channels at both ends, and across the first border between groups."""
    border = max(channels // (4 * threads), 20)
    return [slice(0, 17), slice(border - 20, border + 21), slice(channels - 37, channels)]


def assert_same_by_themselves(results, channels, threads):
    """results(part) of all channels has the bits of those of some channels, by one thread."""
    with bnfast.num_threads(threads):
        whole = results(slice(None))
    with bnfast.num_threads(1):
        for part in pieces(channels, threads):
            for got, want in zip(whole, results(part), strict=True):
                np.testing.assert_array_equal(got[part] if got.ndim == 1 else got[:, part], want)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("with_where", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS + PLANES)
def test_training_gives_the_bits_of_some_channels_by_themselves(shape, dtype, with_where, threads):
    x, residual, dy = inputs(shape, dtype)
    _, gamma, beta = per_channel(shape[1])
    where = None
    if with_where:
        where = np.random.default_rng(5).random((shape[0], 1, *shape[2:])) < 0.8
        where.flat[0] = True

    def results(part):
        y, ctx = bnfast.batch_norm(
            x[:, part].copy(),
            gamma[part],
            beta[part],
            residual=residual[:, part].copy(),
            activation="relu",
            where=where,
        )
        return ctx.mean, ctx.var, y, *bnfast.batch_norm_backward(dy[:, part].copy(), ctx)

    assert_same_by_themselves(results, shape[1], threads)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS + PLANES)
def test_given_statistics_give_the_bits_of_some_channels_by_themselves(shape, dtype, threads):
    x, residual, dy = inputs(shape, dtype)
    var, gamma, beta = per_channel(shape[1])
    mean = gamma[::-1].copy()

    def results(part):
        arguments = mean[part], var[part], gamma[part], beta[part]
        y = bnfast.batch_norm_inference(x[:, part].copy(), *arguments, activation="tanh")
        added, ctx = bnfast.batch_norm_frozen(
            x[:, part].copy(), *arguments, residual=residual[:, part].copy()
        )
        return y, added, *bnfast.batch_norm_backward(dy[:, part].copy(), ctx)

    assert_same_by_themselves(results, shape[1], threads)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("shape", ROWS + PLANES)
def test_training_in_place_gives_the_bits_of_some_channels_by_themselves(shape, threads):
    x, _, dy = inputs(shape, np.float32)
    gamma, _, beta = per_channel(shape[1])

    def results(part):
        own = x[:, part].copy()
        y, ctx = bnfast.batch_norm(own, gamma[part], beta[part], activation="leaky_relu", out=own)
        return y, *bnfast.batch_norm_backward(dy[:, part].copy(), ctx)[:3]

    assert_same_by_themselves(results, shape[1], threads)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("shape", ROWS + PLANES)
def test_dropout_is_that_of_separate_calls(shape, measured, threads):
    x, _, dy = inputs(shape, np.float32)
    stats = bnfast.moments(x) if measured else None  # given: only normalised, in groups of its own
    with bnfast.num_threads(threads):
        y, ctx = bnfast.batch_norm(x, activation="relu", dropout=0.4, seed=9, stats=stats)
        grads = bnfast.batch_norm_backward(dy, ctx)
        plain, plain_ctx = bnfast.batch_norm(x, activation="relu", stats=stats)
        want, mask = bnfast.dropout(plain, 0.4, seed=9)
        want_grads = bnfast.batch_norm_backward(bnfast.dropout_backward(dy, mask), plain_ctx)
    np.testing.assert_array_equal(y, want)
    for got, expected in zip(grads, want_grads, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("threads", THREADS)
def test_parameters_of_many_channels_are_read_whatever_their_strides(threads):
    shape = (6, 9001)
    x, _, _ = inputs(shape, np.float32)
    var, gamma, beta = per_channel(shape[1])
    mean = beta[::-1]  # against the order of memory
    wide = np.zeros((shape[1], 3), np.float32)
    wide[:, 1] = gamma
    with bnfast.num_threads(threads):
        got = bnfast.batch_norm_inference(x, mean, var, wide[:, 1], beta)
        want = bnfast.batch_norm_inference(
            x, mean.copy(), var, gamma.astype(np.float32).astype(np.float64), beta.copy()
        )
    np.testing.assert_array_equal(got, want)
    z = (x - mean) / np.sqrt(var + 1e-5) * wide[:, 1] + beta
    np.testing.assert_allclose(got, z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("negative", [[8999], [7000, 300], [0]])
def test_the_first_negative_var_of_many_is_named(negative, threads):
    x = np.ones((2, 9000), np.float32)
    var = np.ones(9000)
    var[negative] = -2.5
    out = np.full_like(x, 7)
    with bnfast.num_threads(threads):
        message = f"batch_norm_inference: var is -2.5 in channel {min(negative)}, expected numbers"
        with pytest.raises(ValueError, match=message):
            bnfast.batch_norm_inference(x, np.zeros(9000), var, out=out)
    assert (out == 7).all()
