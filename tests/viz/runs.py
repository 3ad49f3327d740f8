"""A small run that the tests record: two layers, whose inputs differ from step to step."""

from __future__ import annotations

import numpy as np

import bnfast
import bnfast.viz

CHANNELS = 5
NAMES = ("first", "second")


def batch(step, shape=(12, CHANNELS, 4)):
    """The input of a step, whose mean and spread grow from step to step."""
    x = np.random.default_rng(step).normal(0.5 * step, 1 + 0.3 * step, size=shape)
    return x.astype(np.float32)


def make_layers(**arguments):
    return {name: bnfast.BatchNorm(CHANNELS, **arguments) for name in NAMES}


def train(layers, steps):
    """Call the layers one after the other, with changes of gamma and beta between the steps."""
    for step in range(steps):
        x = batch(step)
        for bn in layers.values():
            x = bn(x + 1)
            bn.gamma *= np.float32(1.1)
            bn.beta += np.arange(CHANNELS, dtype=np.float32)


def recorded(steps=12, every=2, **arguments):
    """A recording of that run."""
    layers = make_layers()
    with bnfast.viz.Recorder(every=every, **arguments).watch(layers) as recorder:
        train(layers, steps)
    return recorder
