"""Layers and data to test layers with, and the comparison of their states."""

from __future__ import annotations

import numpy as np

import bnfast

SHAPE = (6, 3, 4, 5)


def make(axis=1, seed=0, dtype=np.float64, **arguments):
    """A layer with parameters and running statistics away from their start values."""
    bn = bnfast.BatchNorm(3, axis=axis, dtype=dtype, **arguments)
    generator = np.random.default_rng(seed)
    if bn.gamma is not None:
        bn.gamma[:] = generator.uniform(0.5, 2, 3)
        bn.beta[:] = generator.normal(size=3)
    return bn


def data(seed=1, dtype=np.float64):
    return np.random.default_rng(seed).normal(2, 3, size=SHAPE).astype(dtype)


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for key, array in a.items():
        assert array.dtype == b[key].dtype
        assert array.tobytes() == b[key].tobytes(), key
