"""The norms as formulas of jax.numpy, whose derivatives are those of the gradients.

The compiled gradients have no derivative of their own. Where a loss contains a gradient, as a
gradient penalty does, JAX differentiates these formulas in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BATCH, LAYER, RMS = range(3)  # as jax_ffi.cpp numbers them

# By number, as bnfast._choices.ACTIVATIONS has them.
_ACTIVATIONS: tuple[Callable[[jax.Array], jax.Array], ...] = (
    lambda z: z,
    jax.nn.relu,
    jax.nn.leaky_relu,
    jax.nn.sigmoid,
    jnp.tanh,
    jax.nn.silu,
    lambda z: jax.nn.gelu(z, approximate=False),
    jax.nn.elu,
)


class Norm(NamedTuple):
    """What is computed, beyond the arrays. `axis` is not negative."""

    kind: int
    axis: int
    eps: float
    activation: int

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the custom calls."""
        return {
            "norm": np.int32(self.kind),
            "axis": np.int32(self.axis),
            "eps": np.float64(self.eps),
            "activation": np.int32(self.activation),
        }


def _value(
    norm: Norm, x: jax.Array, gamma: jax.Array, beta: jax.Array, residual: jax.Array
) -> jax.Array:
    """Return y; arguments without elements are those that were not given."""
    h = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    of_channels = norm.kind == BATCH
    last = tuple(range(norm.axis, x.ndim))
    over = tuple(d for d in range(x.ndim) if (d != norm.axis if of_channels else d in last))
    shape = [n if d == norm.axis or not of_channels else 1 for d, n in enumerate(x.shape)]
    shape = shape if of_channels else shape[norm.axis :]
    centred = h if norm.kind == RMS else h - h.mean(over, keepdims=True)
    z = centred * jax.lax.rsqrt(jnp.square(centred).mean(over, keepdims=True) + norm.eps)
    z = z * gamma.reshape(shape) if gamma.size else z
    z = z + beta.reshape(shape) if beta.size else z
    z = z + residual if residual.size else z
    return _ACTIVATIONS[norm.activation](z).astype(x.dtype)


def gradients(
    norm: Norm,
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    residual: jax.Array,
    dy: jax.Array,
    dh: jax.Array,
) -> tuple[jax.Array, ...]:
    """Return dx, dgamma, dbeta and dresidual."""
    _, pullback = jax.vjp(lambda *arrays: _value(norm, *arrays), x, gamma, beta, residual)
    dx, *others = pullback(dy)
    return dx + dh if dh.size else dx, *others
