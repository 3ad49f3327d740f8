"""JAX as a contender: jit on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from contender import Contender
from workload import EPS, RATE, SEED, Array, Case


class Jax:
    """The formulas of Flax's batch norm, compiled; each call waits for its result."""

    name = "jax"

    def __init__(self, num_threads: int) -> None:
        # Read once, when XLA makes its pool of threads.
        os.environ["NPROC"] = str(num_threads)
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", True)
        self._jax: Any = jax
        self.version: str = jax.__version__

    def contenders(self, case: Case) -> list[Contender]:
        make = {
            "forward": self._forward,
            "inference": self._inference,
            "backward": self._backward,
            "dropout": self._dropout,
            "dropout_backward": self._dropout_backward,
        }[case.operation.kind]
        compiled, arguments = make(case)
        wait = self._jax.block_until_ready
        return [
            Contender(
                self.name,
                "fresh",
                lambda: wait(compiled(*arguments)),
                # The result or the first of several: y or dx.
                lambda returned: np.asarray(self._jax.tree.leaves(returned)[0]),
            )
        ]

    def _arrays(self, *arrays: Array | None) -> list[Any]:
        return [None if array is None else self._jax.numpy.asarray(array) for array in arrays]

    def _keep(self, x: Any, mask: Any) -> Any:
        return self._jax.numpy.where(mask, x / (1 - RATE), 0).astype(x.dtype)

    def _draw(self, key: Any, x: Any) -> Any:
        return self._keep(x, self._jax.random.bernoulli(key, 1 - RATE, x.shape))

    def _apply(self, case: Case) -> Callable[..., Any]:
        """y before dropout, from x, the statistics, gamma, beta and the residual."""
        jax = self._jax
        dims = [1] * case.x.ndim
        dims[case.axis] = -1

        def apply(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, residual: Any) -> Any:
            scale = gamma * jax.lax.rsqrt(var + EPS)
            y = (x - mean.reshape(dims)) * scale.reshape(dims) + beta.reshape(dims)
            y = y if residual is None else y + residual
            return (jax.nn.relu(y) if case.operation.relu else y).astype(x.dtype)

        return apply

    def _train(self, case: Case) -> Callable[..., Any]:
        """(y before dropout, mean, var) from x, gamma, beta and the residual."""
        jnp, stats, apply = self._jax.numpy, case.channel_dtype, self._apply(case)
        axes = tuple(axis for axis in range(case.x.ndim) if axis != case.axis % case.x.ndim)

        def train(x: Any, gamma: Any, beta: Any, residual: Any) -> Any:
            wide = x.astype(stats)
            mean = wide.mean(axes)
            # Flax's default: one pass over x, at the price of cancellation.
            var = jnp.maximum(0, jnp.square(wide).mean(axes) - jnp.square(mean))
            return apply(x, mean, var, gamma, beta, residual), mean, var

        return train

    def _forward(self, case: Case) -> tuple[Callable[..., Any], list[Any]]:
        train, drop = self._train(case), case.operation.dropout

        def forward(key: Any, *arguments: Any) -> Any:
            y, mean, var = train(*arguments)
            return (self._draw(key, y) if drop else y), mean, var

        arrays = self._arrays(case.x, case.gamma, case.beta, case.residual)
        return self._jax.jit(forward), [self._jax.random.key(SEED), *arrays]

    def _inference(self, case: Case) -> tuple[Callable[..., Any], list[Any]]:
        arrays = self._arrays(case.x, case.mean, case.var, case.gamma, case.beta, case.residual)
        return self._jax.jit(self._apply(case)), arrays

    def _backward(self, case: Case) -> tuple[Callable[..., Any], list[Any]]:
        """What jax.vjp derives; it chooses what forward stores."""
        jax, train = self._jax, self._train(case)
        mask = case.mask if case.operation.dropout else None

        def y_only(*arguments: Any) -> Any:
            y = train(*arguments)[0]
            return y if mask is None else self._keep(y, mask)

        arrays = self._arrays(case.x, case.gamma, case.beta, case.residual)
        _, pull = jax.jit(lambda *arguments: jax.vjp(y_only, *arguments))(*arrays)
        return jax.jit(lambda pull, dy: pull(dy)), [pull, *self._arrays(case.dy)]

    def _dropout(self, case: Case) -> tuple[Callable[..., Any], list[Any]]:
        return self._jax.jit(self._draw), [self._jax.random.key(SEED), *self._arrays(case.x)]

    def _dropout_backward(self, case: Case) -> tuple[Callable[..., Any], list[Any]]:
        return self._jax.jit(self._keep), self._arrays(case.dy, case.mask)
