"""Slices that are read in place: their planes do not touch, and give the bits of a dense copy."""

import numpy as np
import pytest

import bnfast

# Planes of 72 elements and of 2590, many channels (walked several at once) and few.
CUTS = {
    "every other channel": lambda a: a[:, ::2],
    "channels reversed": lambda a: a[:, ::-1],
    "rows of the image cut off": lambda a: a[:, :, 1:-1],
    "every other image": lambda a: a[::2],
}
SHAPES = {"many channels": (3, 80, 10, 9), "long planes": (4, 6, 72, 37)}


def sliced(shape, cut, seed):
    big = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return CUTS[cut](big)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("cut", CUTS)
def test_forward_and_moments_of_a_slice(shape, cut):
    x, residual = (sliced(shape, cut, seed) for seed in (1, 2))
    dense, dense_residual = x.copy(), residual.copy()
    assert bnfast.moments(x) == bnfast.moments(dense)
    want, _ = bnfast.batch_norm(dense, residual=dense_residual, activation="relu")
    for one, other in ((x, dense_residual), (dense, residual), (x, residual)):
        y, _ = bnfast.batch_norm(one, residual=other, activation="relu")
        np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("which", ["x", "dy", "residual"])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("cut", CUTS)
def test_backward_of_a_slice(shape, cut, activation, which):
    arrays = {name: sliced(shape, cut, seed) for seed, name in enumerate(("x", "dy", "residual"))}
    channels = arrays["x"].shape[1]
    gamma, beta = np.ones(channels), np.zeros(channels)

    def gradients(operands):
        _, ctx = bnfast.batch_norm(
            operands["x"], gamma, beta, residual=operands["residual"], activation=activation
        )
        return bnfast.batch_norm_backward(operands["dy"], ctx)

    dense = {name: a.copy() for name, a in arrays.items()}
    want = gradients(dense)
    got = gradients({**dense, which: arrays[which]})
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
