"""Plain NumPy as a peer: the textbook, on one thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from workload import EPS, RATE, SEED, Array, Case, Library


class NumPy(Library):
    """What one would write without a library, with in-place steps where they are natural."""

    name = "numpy"
    version = np.__version__

    def __init__(self, num_threads: int) -> None:
        pass

    def calls(self, case: Case) -> dict[str, Callable[[], Array]]:
        if case.operation.elementwise:
            return {"fresh": self._dropout(case)}
        backward = case.operation.kind == "backward"
        return {"fresh": self._backward(case) if backward else self._forward(case)}

    def _dropout(self, case: Case) -> Callable[[], Array]:
        scale = case.dtype.type(1 / (1 - RATE))
        if case.operation.kind == "dropout_backward":
            return lambda: case.dy * case.mask * scale
        rng = np.random.default_rng(SEED)
        return lambda: case.x * (rng.random(case.x.shape, np.float32) >= RATE) * scale

    def _forward(self, case: Case) -> Callable[[], Array]:
        x, residual, operation = case.x, case.residual, case.operation
        gamma, beta = case.broadcast(case.gamma), case.broadcast(case.beta)
        given = case.broadcast(case.mean), case.broadcast(case.var)
        axes, training = case.reduced_axes, operation.kind != "inference"
        rng = np.random.default_rng(SEED)

        def call() -> Array:
            mean, var = given
            if training:
                mean = x.mean(axes, dtype=case.channel_dtype, keepdims=True)
            y = x - mean
            if training:
                var = np.square(y).mean(axes, keepdims=True)
            y *= gamma / np.sqrt(var + EPS)
            y += beta
            if residual is not None:
                y += residual
            if operation.relu:
                np.maximum(y, 0, out=y)
            if operation.dropout:
                y *= rng.random(y.shape, dtype=np.float32) >= RATE
                y *= 1 / (1 - RATE)
            return y.astype(x.dtype, copy=False)

        return call

    def _backward(self, case: Case) -> Callable[[], Array]:
        x, dy, operation = case.x, case.dy, case.operation
        gamma, over = case.broadcast(case.gamma), (case.reduced_axes, case.channel_dtype)
        mean = x.mean(*over, keepdims=True)
        invstd = 1 / np.sqrt(x.var(*over, keepdims=True) + EPS)
        # What ReLU lets through shows in its result before dropout.
        undropped = replace(case, operation=replace(operation, dropout=False))
        y = self._forward(undropped)() if operation.relu else None

        def call() -> Array:
            dz = dy if y is None else dy * (y > 0)
            if operation.dropout:
                dz *= case.mask
                dz *= 1 / (1 - RATE)
            normalised = (x - mean) * invstd
            dgamma = (dz * normalised).mean(*over, keepdims=True)
            dx = dz - dz.mean(*over, keepdims=True)
            normalised *= dgamma
            dx = dx - normalised
            dx *= gamma * invstd
            returned: Array = dx.astype(x.dtype, copy=False)
            return returned

        return call
