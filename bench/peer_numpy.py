"""Plain NumPy as a contender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from contender import Contender
from workload import EPS, RATE, SEED, Array, Case


class NumPyPlain:
    """The textbook in NumPy, with in-place steps where they are natural; one thread."""

    name = "numpy"
    version = np.__version__

    def __init__(self, num_threads: int) -> None:
        pass

    def contenders(self, case: Case) -> list[Contender]:
        kind = case.operation.kind
        if case.operation.elementwise:
            call = self._dropout(case)
        elif kind == "backward":
            call = self._backward(case)
        else:
            call = self._forward(case, training=kind == "forward")
        return [Contender(self.name, "fresh", call, lambda returned: returned)]

    def _dropout(self, case: Case) -> Callable[[], Array]:
        scale = case.dtype.type(1 / (1 - RATE))
        if case.operation.kind == "dropout_backward":
            dy, mask = case.dy, case.mask
            return lambda: dy * mask * scale
        x, rng = case.x, np.random.default_rng(SEED)
        return lambda: x * (rng.random(x.shape, dtype=np.float32) >= RATE) * scale

    def _broadcasting(self, case: Case) -> tuple[tuple[int, ...], Callable[[Array], Array]]:
        """The reduced axes, and a view of per-channel values that broadcasts against x."""
        channel_axis = case.axis % case.x.ndim
        axes = tuple(axis for axis in range(case.x.ndim) if axis != channel_axis)
        dims = [-1 if axis == channel_axis else 1 for axis in range(case.x.ndim)]
        return axes, lambda values: values.reshape(dims)

    def _forward(self, case: Case, training: bool) -> Callable[[], Array]:
        axes, per_channel = self._broadcasting(case)
        x, residual, stats = case.x, case.residual, case.channel_dtype
        gamma, beta = per_channel(case.gamma), per_channel(case.beta)
        given = (per_channel(case.mean), per_channel(case.var))
        relu, drop = case.operation.relu, case.operation.dropout
        rng = np.random.default_rng(SEED)

        def call() -> Array:
            mean, var = given
            if training:
                mean = x.mean(axes, dtype=stats, keepdims=True)
            y = x - mean
            if training:
                var = np.square(y).mean(axes, keepdims=True)
            y *= gamma / np.sqrt(var + EPS)
            y += beta
            if residual is not None:
                y += residual
            if relu:
                np.maximum(y, 0, out=y)
            if drop:
                y *= rng.random(y.shape, dtype=np.float32) >= RATE
                y *= 1 / (1 - RATE)
            return y.astype(x.dtype, copy=False)

        return call

    def _backward(self, case: Case) -> Callable[[], Array]:
        axes, per_channel = self._broadcasting(case)
        x, dy, gamma, stats = case.x, case.dy, per_channel(case.gamma), case.channel_dtype
        mean = x.mean(axes, dtype=stats, keepdims=True)
        invstd = 1 / np.sqrt(x.var(axes, dtype=stats, keepdims=True) + EPS)
        # ReLU's mask is that of its result before dropout.
        undropped = replace(case, operation=replace(case.operation, dropout=False))
        y = self._forward(undropped, training=True)() if case.operation.relu else None
        mask = case.mask if case.operation.dropout else None

        def call() -> Array:
            dz = dy if y is None else dy * (y > 0)
            if mask is not None:
                dz *= mask
                dz *= 1 / (1 - RATE)
            normalised = (x - mean) * invstd
            dgamma = (dz * normalised).mean(axes, dtype=stats, keepdims=True)
            dx = dz - dz.mean(axes, dtype=stats, keepdims=True)
            normalised *= dgamma
            dx = dx - normalised
            dx *= gamma * invstd
            returned: Array = dx.astype(x.dtype, copy=False)
            return returned

        return call
