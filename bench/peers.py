"""The contenders: bnfast, plain NumPy, and the list of the libraries to measure against.

A new peer is a file with a class that has the members of `Library`, and one line in PEERS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from contender import Contender, Library
from peer_torch import Torch
from workload import EPS, Array, Case


class BnFast:
    """The package itself."""

    name = "bnfast"

    def __init__(self, num_threads: int) -> None:
        import bnfast

        self._lib: Any = bnfast
        self.version: str = getattr(bnfast, "__version__", "unknown")
        bnfast.set_num_threads(num_threads)

    @property
    def target(self) -> str:
        return str(self._lib.active_target())

    def stream(self, dst: Array, srcs: list[Array], num_threads: int, /) -> object:
        """The kernel behind every floor; private to the benchmarks."""
        return self._lib._core.stream(dst, srcs, num_threads)

    def contenders(self, case: Case) -> list[Contender]:
        run, result = self._runner(case)
        return [
            Contender(self.name, "out", partial(run, case.out), result),
            Contender(self.name, "fresh", partial(run, None), result),
        ]

    def _runner(self, case: Case) -> tuple[Callable[[Array | None], Any], Callable[[Any], Array]]:
        lib = self._lib
        x, gamma, beta, residual = case.x, case.gamma, case.beta, case.residual
        axis, activation = case.axis, case.activation

        def forward(out: Array | None) -> Any:
            return lib.batch_norm(
                x,
                gamma,
                beta,
                axis=axis,
                eps=EPS,
                residual=residual,
                activation=activation,
                out=out,
            )

        if case.operation.kind == "forward":
            return forward, lambda returned: returned[0]
        if case.operation.kind == "backward":
            dy = case.dy
            _, ctx = forward(None)
            return (
                lambda out: lib.batch_norm_backward(dy, ctx, out=out),
                lambda returned: returned.dx,
            )
        mean, var = case.mean, case.var
        return (
            lambda out: lib.batch_norm_inference(
                x,
                mean,
                var,
                gamma,
                beta,
                axis=axis,
                eps=EPS,
                residual=residual,
                activation=activation,
                out=out,
            ),
            lambda returned: returned,
        )


class NumPyPlain:
    """The textbook in NumPy, with in-place steps where they are natural; one thread."""

    name = "numpy"
    version = np.__version__

    def __init__(self, num_threads: int) -> None:
        pass

    def contenders(self, case: Case) -> list[Contender]:
        kind = case.operation.kind
        call = (
            self._backward(case)
            if kind == "backward"
            else self._forward(case, training=kind == "forward")
        )
        return [Contender(self.name, "fresh", call, lambda returned: returned)]

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
        relu = case.operation.relu

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
            return y.astype(x.dtype, copy=False)

        return call

    def _backward(self, case: Case) -> Callable[[], Array]:
        axes, per_channel = self._broadcasting(case)
        x, dy, gamma, stats = case.x, case.dy, per_channel(case.gamma), case.channel_dtype
        mean = x.mean(axes, dtype=stats, keepdims=True)
        invstd = 1 / np.sqrt(x.var(axes, dtype=stats, keepdims=True) + EPS)
        y = self._forward(case, training=True)() if case.operation.relu else None

        def call() -> Array:
            dz = dy if y is None else dy * (y > 0)
            normalised = (x - mean) * invstd
            dgamma = (dz * normalised).mean(axes, dtype=stats, keepdims=True)
            dx = dz - dz.mean(axes, dtype=stats, keepdims=True)
            normalised *= dgamma
            dx = dx - normalised
            dx *= gamma * invstd
            returned: Array = dx.astype(x.dtype, copy=False)
            return returned

        return call


PEERS: dict[str, Callable[[int], Library]] = {"torch": Torch, "numpy": NumPyPlain}


def load_peers(names: list[str], num_threads: int) -> tuple[list[Library], list[str]]:
    """The named peers that are installed, and the names of those that are not."""
    loaded: list[Library] = []
    missing: list[str] = []
    for name in names:
        if name not in PEERS:
            raise ValueError(f"peer: got {name}, expected one of {', '.join(PEERS)}")
        try:
            loaded.append(PEERS[name](num_threads))
        except ImportError:
            missing.append(name)
    return loaded, missing
