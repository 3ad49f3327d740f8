"""Plain NumPy as a peer: the textbook, on one thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

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

    def _normalised(self, case: Case, mask: Callable[[], Array]) -> Array:
        """What the norm is taken of: h = residual + drop(x) where these stand before it."""
        h = case.x
        if case.operation.prologue and case.operation.dropout:
            h = h * mask()
            h *= case.dtype.type(1 / (1 - RATE))
        if case.operation.prologue and case.residual is not None:
            h = h + case.residual
        return case.grouped(h)

    def _mean(self, case: Case, h: Array) -> Any:
        """Over the elements that share a statistic; RMS norm is about zero."""
        if case.operation.norm == "rms":
            return case.channel_dtype(0)
        return h.mean(case.reduced_axes, dtype=case.channel_dtype, keepdims=True)

    def _forward(self, case: Case) -> Callable[[], Array]:
        residual, operation = case.residual, case.operation
        gamma, beta, *given = (
            case.grouped(case.broadcast(values))
            for values in (case.gamma, case.beta, case.mean, case.var)
        )
        rng = np.random.default_rng(SEED)

        def mask() -> Array:
            return rng.random(case.x.shape, dtype=np.float32) >= RATE

        def call() -> Array:
            x, (mean, var) = self._normalised(case, mask), given
            if operation.kind != "inference":
                mean = self._mean(case, x)
            y = x - mean
            if operation.kind != "inference":
                var = np.square(y).mean(case.reduced_axes, keepdims=True)
            y *= gamma / np.sqrt(var + EPS)
            if operation.norm != "rms":
                y += beta
            y = y.reshape(case.x.shape)
            if residual is not None and not operation.prologue:
                y += residual
            if operation.relu:
                np.maximum(y, 0, out=y)
            if operation.dropout and not operation.prologue:
                y *= mask()
                y *= 1 / (1 - RATE)
            return y.astype(case.dtype, copy=False)

        return call

    def _backward(self, case: Case) -> Callable[[], Array]:
        operation, over = case.operation, (case.reduced_axes, case.channel_dtype)
        x, dy = self._normalised(case, lambda: case.mask), case.grouped(case.dy)
        gamma = case.grouped(case.broadcast(case.gamma))
        mean = self._mean(case, x)
        invstd = 1 / np.sqrt(np.square(x - mean).mean(*over, keepdims=True) + EPS)
        # What ReLU lets through shows in its result before dropout.
        undropped = replace(case, operation=replace(operation, dropout=False))
        y = self._forward(undropped)() if operation.relu else None

        def drop(gradient: Array) -> None:
            gradient *= case.grouped(case.mask)
            gradient *= 1 / (1 - RATE)

        def call() -> Array:
            dz = dy * gamma
            if y is not None:
                dz *= y > 0
            if operation.dropout and not operation.prologue:
                drop(dz)
            normalised = (x - mean) * invstd
            projection = (dz * normalised).mean(*over, keepdims=True)
            if operation.norm != "rms":
                dz -= dz.mean(*over, keepdims=True)
            normalised *= projection
            dz -= normalised
            dz *= invstd
            if operation.dropout and operation.prologue:
                drop(dz)
            returned: Array = dz.reshape(case.x.shape).astype(case.dtype, copy=False)
            return returned

        return call
