"""JAX as a peer: the textbook, compiled by XLA for each case, and differentiated by JAX."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from workload import EPS, RATE, SEED, Array, Case, Library


class Jax(Library):
    """Every call under `jax.jit`; its arrays are made once, and results are waited for."""

    name = "jax"

    def __init__(self, num_threads: int) -> None:
        os.environ["NPROC"] = str(num_threads)  # where XLA learns the number of its threads
        import jax

        jax.config.update("jax_enable_x64", True)  # or float64 would become float32
        self._jax: Any = jax
        self.version: str = jax.__version__

    def calls(self, case: Case) -> dict[str, Callable[[], Any]]:
        jax, jnp, operation = self._jax, self._jax.numpy, case.operation
        if operation.elementwise:
            return {}
        arrays = [case.x, case.gamma, case.beta]
        leaves = [jnp.asarray(a) for a in (*arrays, case.residual) if a is not None]

        def drop(x: Any, mask: Any) -> Any:
            return jnp.where(mask, x / (1 - RATE), 0) if operation.dropout else x

        def norm(mask: Any, x: Any, gamma: Any, beta: Any, residual: Any = 0) -> Any:
            x = drop(x, mask) + residual if operation.prologue else x
            # Computed in float32 where x has 16 bits, as JAX's layer libraries do.
            h, over = case.grouped(x.astype(case.channel_dtype)), case.reduced_axes
            mean, var = case.broadcast(case.mean), case.broadcast(case.var)
            if operation.kind != "inference":
                mean = 0 if operation.norm == "rms" else h.mean(over, keepdims=True)
                var = jnp.square(h - mean).mean(over, keepdims=True)
            y = ((h - mean) * jax.lax.rsqrt(var + EPS)).reshape(x.shape) * case.broadcast(gamma)
            y = (y if operation.norm == "rms" else y + case.broadcast(beta)).astype(case.dtype)
            y = y if operation.prologue else y + residual
            y = jax.nn.relu(y) if operation.relu else y
            return y if operation.prologue else drop(y, mask)

        if operation.kind == "backward":
            _, pullback = jax.vjp(lambda *leaves: norm(case.mask, *leaves), *leaves)
            backward, dy = jax.jit(lambda pullback, dy: pullback(dy)), jnp.asarray(case.dy)
            return {"fresh": lambda: jax.block_until_ready(backward(pullback, dy))[0]}
        draw, key = jax.random.bernoulli, jax.random.key(SEED)
        forward = jax.jit(lambda key, *rest: norm(draw(key, 1 - RATE, case.x.shape), *rest))
        return {"fresh": lambda: forward(key, *leaves).block_until_ready()}

    def result(self, returned: Any, case: Case) -> Array:
        return np.asarray(returned)
