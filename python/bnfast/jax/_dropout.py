"""Dropout whose mask is bnfast.dropout_mask's, with a seed that may be traced."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bnfast._checks import whole_number
from bnfast._dropout import check_rate
from bnfast.jax._arrays import as_floats
from bnfast.jax._library import call


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dropout(rate: float, x: jax.Array, words: jax.Array) -> jax.Array:
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return call("dropout", [result], x, words, rate=np.float64(rate))[0]


def _forward(rate: float, x: jax.Array, words: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _dropout(rate, x, words), words


def _backward(rate: float, words: jax.Array, dy: jax.Array) -> tuple[jax.Array, None]:
    return _dropout(rate, dy, words), None  # linear in x, and its own transpose


_dropout.defvjp(_forward, _backward)


def _words(seed: int | jax.Array) -> jax.Array:
    """Return the seed as two words of 32 bits, the higher one first, as JAX's keys have them."""
    if isinstance(seed, (np.integer, np.ndarray)) and seed.shape == () and seed.dtype.kind in "iu":
        seed = int(seed) % 2 ** (8 * seed.itemsize)  # JAX would cut 64 bits to 32
    if not hasattr(seed, "dtype"):
        number = whole_number("dropout", "seed", seed, low=0, high=2**64 - 1)
        return jnp.array([number >> 32, number % 2**32], jnp.uint32)
    seed = jnp.asarray(seed)
    if jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        seed = jax.random.key_data(seed)
    if seed.dtype == jnp.uint32 and seed.shape == (2,):
        return seed
    if not jnp.issubdtype(seed.dtype, jnp.integer) or seed.shape != ():
        expected = "one integer, or a key of two words"
        got = f"shape {seed.shape} and dtype {seed.dtype}"
        raise TypeError(f"dropout: seed has {got}, expected {expected}")
    high = seed >> 32 if seed.dtype.itemsize == 8 else jnp.zeros_like(seed)
    return jnp.stack([high, seed]).astype(jnp.uint32)


def dropout(x: ArrayLike, rate: float, seed: int | jax.Array) -> jax.Array:
    """Dropout: elements set to zero with a probability of `rate`, the others / (1 - rate) [1]_.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16
    rate : float
        In [0, 1], and not traced.
    seed : int, array of one integer, or key
        What the mask is a function of, with the shape of x: that of :func:`bnfast.dropout_mask`,
        bit for bit. An int is in [0, 2**64); an integer of an array, which may be traced, counts
        modulo the size of its type. A key, of ``jax.random.key`` or ``PRNGKey``, is the seed
        whose higher and lower word it has, so that ``key(7)`` stands for 7.

    Returns
    -------
    y : array like `x`

    Raises
    ------
    ValueError, TypeError
        For bad values or shapes, and for bad kinds or dtypes, while the call is traced.

    Notes
    -----
    Backward computes the mask again; nothing is stored for it. Under ``vmap`` the mask of each
    example is that of a call on it alone: one seed for all of them means one mask for all of them.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: A
       Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, bnfast.jax
    >>> print(bnfast.jax.dropout(jnp.ones(8), 0.5, 7))
    [2. 0. 2. 2. 0. 2. 2. 2.]
    >>> print(bnfast.dropout_mask((8,), 0.5, seed=7).astype(int))
    [1 0 1 1 0 1 1 1]
    """
    x = as_floats("dropout", "x", x)
    return _dropout(check_rate("dropout", "rate", rate), x, _words(seed))
