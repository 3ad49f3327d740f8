"""Layers and data to test layers with, and the comparison of their states."""

from __future__ import annotations

from functools import partial

import numpy as np

import bnfast

SHAPE = (6, 3, 4, 5)
# The layers with parameters, made for arrays of that shape. Those after the first have statistics
# of a sample's own, and those of TRANSFORMER a residual stream.
LAYERS = {
    "BatchNorm": partial(bnfast.BatchNorm, 3),
    "LayerNorm": partial(bnfast.LayerNorm, (4, 5)),
    "RMSNorm": partial(bnfast.RMSNorm, 5),
    "GroupNorm": partial(bnfast.GroupNorm, 2, 4, axis=2),
    "InstanceNorm": partial(bnfast.InstanceNorm, 3, affine=True),
}
NORMS = list(LAYERS)[1:]
TRANSFORMER = NORMS[:2]


def make(name="BatchNorm", seed=0, dtype=np.float64, **arguments):
    """A layer with parameters away from their start values."""
    layer = LAYERS[name](dtype=dtype, **arguments)
    generator = np.random.default_rng(seed)
    if layer.gamma is not None:
        layer.gamma[...] = generator.uniform(0.5, 2, layer.gamma.shape)
    if layer.beta is not None:
        layer.beta[...] = generator.normal(size=layer.beta.shape)
    return layer


def data(seed=1, dtype=np.float64):
    return np.random.default_rng(seed).normal(2, 3, size=SHAPE).astype(dtype)


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for key, array in a.items():
        assert array.dtype == b[key].dtype
        assert array.tobytes() == b[key].tobytes(), key
