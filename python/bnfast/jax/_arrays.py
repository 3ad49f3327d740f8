"""Checks of arguments that are arrays of JAX, traced ones included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

FLOATS = ("float32", "float64", "float16", "bfloat16")


def as_floats(operation: str, argument: str, value: ArrayLike) -> jax.Array:
    """Return `value` as an array of one of the four dtypes; any other is a TypeError."""
    if value is None:
        raise TypeError(f"{operation}: {argument} is None, expected an array")
    array = jnp.asarray(value)
    if array.dtype.name not in FLOATS:
        expected = "float32, float64, float16 or bfloat16"
        raise TypeError(f"{operation}: {argument} has dtype {array.dtype}, expected {expected}")
    return array


def absent(dtype: jnp.dtype) -> jax.Array:
    """Return what stands for an argument that is not given: an array without elements."""
    return jnp.zeros((0,), dtype)
