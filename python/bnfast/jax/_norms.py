"""The normalizations: checks, the custom calls, and their gradients."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bnfast._checks import real_number, whole_number
from bnfast._norms import activation_number
from bnfast.jax._arrays import absent, as_floats
from bnfast.jax._formulas import BATCH, LAYER, RMS, Norm, gradients
from bnfast.jax._library import call, state_size


def _like(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


# --- forward and backward -------------------------------------------------------------------------
# Arguments that are not given are arrays without elements, here and in the custom calls.

_Arrays = tuple[jax.Array, ...]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _norm(
    norm: Norm, x: jax.Array, gamma: jax.Array, beta: jax.Array, residual: jax.Array
) -> _Arrays:
    """Return y, h (of layer and RMS norm with a residual), mean and var (of batch norm), state."""
    precise = jnp.promote_types(x.dtype, jnp.float32)
    if norm.kind == BATCH:
        statistics = parameters = x.shape[norm.axis]
        h, mean = jax.ShapeDtypeStruct((0,), x.dtype), jax.ShapeDtypeStruct((statistics,), precise)
    else:
        statistics, parameters = math.prod(x.shape[: norm.axis]), math.prod(x.shape[norm.axis :])
        h, mean = _like(residual), jax.ShapeDtypeStruct((0,), precise)
    # JAX has no float64 unless it is told to: each number of the state is two of uint32.
    state = jax.ShapeDtypeStruct((2 * state_size(statistics, parameters),), jnp.uint32)
    results = [_like(x), h, mean, mean, state]
    return tuple(call("forward", results, x, gamma, beta, residual, **norm.attributes()))


def _forward(
    norm: Norm, x: jax.Array, gamma: jax.Array, beta: jax.Array, residual: jax.Array
) -> tuple[_Arrays, _Arrays]:
    made: _Arrays = _norm(norm, x, gamma, beta, residual)
    _, h, _, _, state = made
    return made, (h if h.size else x, gamma, beta, residual, state)


def _backward(norm: Norm, kept: _Arrays, cotangents: _Arrays) -> _Arrays:
    x, gamma, beta, residual, state = kept
    dy, dh, _, _, _ = cotangents  # mean and var get theirs in _statistics
    added = residual if norm.kind == BATCH else absent(x.dtype)  # otherwise x is h, which has it
    dx, dgamma, dbeta, dresidual = _gradients(norm, x, gamma, beta, added, dy, dh, state)
    if norm.kind != BATCH and residual.shape == x.shape:
        dresidual = dx
    return dx, dgamma, dbeta, dresidual


_norm.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(norm: Norm, *arrays: jax.Array) -> _Arrays:
    """Return dx, dgamma, dbeta and dresidual."""
    x, gamma, beta, residual, dy, dh, state = arrays
    results = [_like(a) for a in (x, gamma, beta, residual)]
    return tuple(call("backward", results, x, residual, dy, dh, state, **norm.attributes()))


def _gradients_forward(norm: Norm, *arrays: jax.Array) -> tuple[_Arrays, _Arrays]:
    return _gradients(norm, *arrays), arrays


def _gradients_backward(
    norm: Norm, kept: _Arrays, cotangents: _Arrays
) -> tuple[jax.Array | None, ...]:
    *arrays, _ = kept
    _, pullback = jax.vjp(partial(gradients, norm), *arrays)
    return *pullback(cotangents), None


_gradients.defvjp(_gradients_forward, _gradients_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _statistics(
    axis: int, x: jax.Array, mean: jax.Array, var: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return mean and var as they are; their gradients reach x here, and only if a loss has any."""
    return mean, var


def _statistics_forward(
    axis: int, x: jax.Array, mean: jax.Array, var: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    mean, var = _statistics(axis, x, mean, var)  # so that the mean that is kept depends on x
    return (mean, var), (x, mean)


def _statistics_backward(
    axis: int, kept: tuple[jax.Array, jax.Array], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array | None, ...]:
    x, mean = kept
    channels = [-1 if d == axis else 1 for d in range(x.ndim)]
    count = x.size // max(mean.size, 1)
    mean, dmean, dvar = (a.reshape(channels) for a in (mean, *cotangents))
    dx = (dmean + 2 * dvar * (x - mean)) / count
    return dx.astype(x.dtype), None, None


_statistics.defvjp(_statistics_forward, _statistics_backward)


# --- checks ---------------------------------------------------------------------------------------


def _checked_axis(operation: str, x: jax.Array, axis: Any) -> int:
    ndim: int = x.ndim
    if not ndim:
        raise ValueError(f"{operation}: x has shape (), expected at least one axis")
    return whole_number(operation, "axis", axis, low=-ndim, high=ndim - 1) % ndim


def _first_axis(operation: str, x: jax.Array, axis: int | tuple[int, ...]) -> int:
    """Return the first of the last axes."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    numbers = [_checked_axis(operation, x, a) for a in axes]
    if not numbers or numbers != list(range(numbers[0], x.ndim)):
        expected = f"the last axes, in order, of x with shape {x.shape}"
        raise ValueError(f"{operation}: axis is {axis}, expected {expected}")
    return numbers[0]


def _parameter(
    operation: str, argument: str, value: ArrayLike | None, shape: tuple[int, ...]
) -> jax.Array:
    if value is None:
        return absent(jnp.dtype(jnp.float32))
    array = as_floats(operation, argument, value)
    if array.shape != shape:
        raise ValueError(f"{operation}: {argument} has shape {array.shape}, expected {shape}")
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _residual(operation: str, value: ArrayLike | None, x: jax.Array) -> jax.Array:
    if value is None:
        return absent(x.dtype)
    array = as_floats(operation, "residual", value)
    if (array.shape, array.dtype) != (x.shape, x.dtype):
        got = f"shape {array.shape} and dtype {array.dtype}"
        expected = f"{x.shape} and {x.dtype} as x"
        raise ValueError(f"{operation}: residual has {got}, expected {expected}")
    return array


# --- the functions --------------------------------------------------------------------------------


def batch_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch normalization in training, with residual and activation in the same pass.

    ``y = act(gamma * (x - mean) / sqrt(var + eps) + beta + residual)`` with the mean and the biased
    variance of each channel [1]_.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16
        Any rank of at least 1.
    gamma, beta : array of one of these dtypes, one entry a channel, optional
        Learnt scale and shift; 1 and 0 when None.
    axis : int
        The channel axis; -1 for channels last.
    eps : float
        Added to the variance, finite and not negative.
    activation : str, optional
        None, "relu", "leaky_relu" (slope 0.01), "sigmoid", "tanh", "silu", "gelu" (by erf), "elu".
    residual : array like `x`, optional
        Added before the activation.

    Returns
    -------
    y : array like `x`
    mean, var : array of float32 (float64 for `x` of float64), one entry a channel
        Gradients flow through them, too, for losses that depend on them.

    Raises
    ------
    ValueError, TypeError
        For bad values or shapes, and for bad kinds or dtypes, while the call is traced.

    Notes
    -----
    Works under ``jit``, ``grad`` and ``vmap``, where each example is a batch norm by itself. Only
    the CPU computes it, and there is no forward-mode derivative: docs/jax.md.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", ICML 2015, algorithm 1.

    Examples
    --------
    >>> import jax.numpy as jnp, bnfast.jax
    >>> x = jnp.array([[1.0, -5.0], [3.0, 5.0]])
    >>> y, mean, var = bnfast.jax.batch_norm(x, eps=0.0)
    >>> print(y, mean, var)
    [[-1. -1.]
     [ 1.  1.]] [2. 0.] [ 1. 25.]
    """
    name = "batch_norm"
    x = as_floats(name, "x", x)
    axis = _checked_axis(name, x, axis)
    norm = Norm(
        BATCH, axis, real_number(name, "eps", eps, low=0), activation_number(name, activation)
    )
    channels = (x.shape[axis],)
    y, _, mean, var, _ = _norm(
        norm,
        x,
        _parameter(name, "gamma", gamma, channels),
        _parameter(name, "beta", beta, channels),
        _residual(name, residual, x),
    )
    return y, *_statistics(axis, x, mean, var)


def _norm_of_last_axes(
    name: str,
    kind: int,
    x: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    axis: int | tuple[int, ...],
    eps: float,
    activation: str | None,
    residual: ArrayLike | None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    x = as_floats(name, "x", x)
    first = _first_axis(name, x, axis)
    norm = Norm(
        kind, first, real_number(name, "eps", eps, low=0), activation_number(name, activation)
    )
    y, h, _, _, _ = _norm(
        norm,
        x,
        _parameter(name, "gamma", gamma, x.shape[first:]),
        _parameter(name, "beta", beta, x.shape[first:]),
        _residual(name, residual, x),
    )
    return y if residual is None else (y, h)


def layer_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Layer normalization, with the sum that stands before it in a Transformer in the same pass.

    ``h = x + residual`` and ``y = act(gamma * (h - mean) / sqrt(var + eps) + beta)`` with the mean
    and the biased variance of h over the last axes [1]_, a pair for each index of the others.

    Parameters
    ----------
    x : array of float32, float64, float16 or bfloat16
        Any rank of at least 1.
    gamma, beta : array of one of these dtypes, of the shape of the normalised axes, optional
        Learnt scale and shift; 1 and 0 when None.
    axis : int or tuple of int
        The last axis, or several last ones in order, as ``(-2, -1)``.
    eps, activation
        As in :func:`batch_norm`.
    residual : array like `x`, optional
        Added before the norm.

    Returns
    -------
    y : array like `x`
        Alone where `residual` is None.
    h : array like `x`
        With `residual`: the sum, which may serve as the next residual.

    Raises
    ------
    ValueError, TypeError
        As in :func:`batch_norm`.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", arXiv:1607.06450, 2016,
       equation 4.

    Examples
    --------
    >>> import jax.numpy as jnp, bnfast.jax
    >>> x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
    >>> print(bnfast.jax.layer_norm(x, eps=0.0))
    [[-1.  1.]
     [-1.  1.]]
    >>> y, h = bnfast.jax.layer_norm(x, residual=jnp.ones_like(x))
    >>> print(h)
    [[ 2.  4.]
     [11. 31.]]
    """
    return _norm_of_last_axes("layer_norm", LAYER, x, gamma, beta, axis, eps, activation, residual)


def rms_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-6,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Root mean square normalization: layer normalization about zero.

    ``h = x + residual`` and ``y = act(gamma * h / sqrt(mean(h**2) + eps))`` with the mean over the
    last axes [1]_.

    Parameters
    ----------
    x, gamma, axis, eps, activation, residual
        As in :func:`layer_norm`.

    Returns
    -------
    y, or y and h
        As :func:`layer_norm` returns them.

    Raises
    ------
    ValueError, TypeError
        As in :func:`batch_norm`.

    References
    ----------
    .. [1] B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019,
       equation 4.

    Examples
    --------
    >>> import jax.numpy as jnp, bnfast.jax
    >>> print(bnfast.jax.rms_norm(jnp.array([[3.0, 3.0], [-2.0, 2.0]]), eps=0.0))
    [[ 1.  1.]
     [-1.  1.]]
    """
    return _norm_of_last_axes("rms_norm", RMS, x, gamma, None, axis, eps, activation, residual)
