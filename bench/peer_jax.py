"""JAX as a peer: the formulas of Flax's batch norm, compiled for the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from workload import EPS, RATE, SEED, Array, Case, Library


class Jax(Library):
    """Functions under `jit`; each call waits for its result."""

    name = "jax"

    def __init__(self, num_threads: int) -> None:
        os.environ["NPROC"] = str(num_threads)  # read once, when XLA makes its pool of threads
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", True)
        self._jax: Any = jax
        self.version: str = jax.__version__

    def calls(self, case: Case) -> dict[str, Callable[[], Any]]:
        function, arguments = self._function(case)
        compiled = self._jax.jit(function)
        arrays = self._jax.tree.map(self._jax.numpy.asarray, arguments)
        return {"fresh": lambda: self._jax.block_until_ready(compiled(*arrays))}

    def result(self, returned: Any, case: Case) -> Array:
        return np.asarray(self._jax.tree.leaves(returned)[0])  # y or dx, the first of several

    def _function(self, case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """A function and its arguments; None is an argument that is left out."""
        jax, operation = self._jax, case.operation
        if operation.kind == "dropout":
            return self._draw, (jax.random.key(SEED), case.x)
        if operation.kind == "dropout_backward":
            return self._keep, (case.dy, case.mask)
        parameters = case.gamma, case.beta, case.residual
        if operation.kind == "inference":
            return self._apply(case), (case.x, case.mean, case.var, *parameters)
        train = self._train(case)
        if operation.kind == "backward":
            # What jax.vjp derives; it chooses what forward stores.
            def kept(*arguments: Any) -> Any:
                y = train(*arguments)[0]
                return self._keep(y, case.mask) if operation.dropout else y

            _, pull = jax.jit(lambda *arguments: jax.vjp(kept, *arguments))(case.x, *parameters)
            return lambda pull, dy: pull(dy), (pull, case.dy)

        def forward(key: Any, *arguments: Any) -> Any:
            y, mean, var = train(*arguments)
            return (self._draw(key, y) if operation.dropout else y), mean, var

        return forward, (jax.random.key(SEED), case.x, *parameters)

    def _keep(self, x: Any, mask: Any) -> Any:
        return self._jax.numpy.where(mask, x / (1 - RATE), 0).astype(x.dtype)

    def _draw(self, key: Any, x: Any) -> Any:
        return self._keep(x, self._jax.random.bernoulli(key, 1 - RATE, x.shape))

    def _apply(self, case: Case) -> Callable[..., Any]:
        """y before dropout, from x, the statistics, gamma, beta and the residual."""
        jax = self._jax

        def apply(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, residual: Any) -> Any:
            scale = gamma * jax.lax.rsqrt(var + EPS)
            y = (x - case.broadcast(mean)) * case.broadcast(scale) + case.broadcast(beta)
            y = y if residual is None else y + residual
            return (jax.nn.relu(y) if case.operation.relu else y).astype(x.dtype)

        return apply

    def _train(self, case: Case) -> Callable[..., Any]:
        """(y before dropout, mean, var) from x, gamma, beta and the residual."""
        jnp, apply = self._jax.numpy, self._apply(case)

        def train(x: Any, *parameters: Any) -> Any:
            wide = x.astype(case.channel_dtype)
            mean = wide.mean(case.reduced_axes)
            # Flax's default: one pass over x, at the price of cancellation.
            var = jnp.maximum(0, jnp.square(wide).mean(case.reduced_axes) - jnp.square(mean))
            return apply(x, mean, var, *parameters), mean, var

        return train
