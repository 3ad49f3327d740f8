"""What the tests of bnfast.jax share: its calls beside those of NumPy arrays; float64 in JAX."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import bnfast

jax = pytest.importorskip("jax")
pytest.importorskip("bnfast.jax", exc_type=ImportError)

import jax.numpy as jnp  # noqa: E402
import ml_dtypes  # noqa: E402

import bnfast.jax  # noqa: E402

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
ACTIVATIONS = (None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "elu")
NORMS = ("batch_norm", "layer_norm", "rms_norm")


def x64():
    """A block of code in which JAX has float64."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()


def draw(shape, dtype=np.float32, seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 2 + 1).astype(dtype)


def parameters(name, x, axis, dtype=np.float32):
    """The arguments gamma and beta, as far as the norm has them."""
    shape = (x.shape[axis],) if name == "batch_norm" else x.shape[axis:]
    count = 1 if name == "rms_norm" else 2
    return [draw(shape, dtype, seed) for seed in (1, 2)[:count]]


def of_numpy(name, x, parameters, dy, *, residual=None, dh=None, **options):
    """Return (y, h, mean, var) and (dx, dgamma, dbeta, dresidual) by bnfast's own functions."""
    y, ctx = getattr(bnfast, name)(x, *parameters, residual=residual, **options)
    if name == "batch_norm":
        grads = bnfast.batch_norm_backward(dy, ctx)
        return (y, None, ctx.mean, ctx.var), grads
    return (y, ctx.h, None, None), bnfast.norm_backward(dy, ctx, dh=dh)


def of_jax(name, **options):
    """The norm as a function of arrays alone; `residual` is the last one where it is asked for."""
    function = partial(getattr(bnfast.jax, name), **options)

    def call(x, *arrays, has_residual=False):
        *given, residual = arrays if has_residual else (*arrays, None)
        return function(x, *given, residual=residual)

    return call


def same(made, expected):
    """Compare bits, and what the bits are of."""
    made = np.asarray(made)
    assert made.dtype == expected.dtype and made.shape == expected.shape
    assert made.tobytes() == np.ascontiguousarray(expected).tobytes()


def textbook(name, x, gamma=None, beta=None, *, axis, eps=1e-5, residual=None):
    """The norm in jax.numpy, without activation: y, and mean and var of a batch norm."""
    if name != "batch_norm" and residual is not None:
        x = x + residual
    over = [d for d in range(x.ndim) if (d == axis % x.ndim) == (name != "batch_norm")]
    mean = 0 if name == "rms_norm" else jnp.mean(x, over, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), over, keepdims=True)
    shape = [n if d == axis % x.ndim else 1 for d, n in enumerate(x.shape)]
    y = (x - mean) / jnp.sqrt(var + eps) * (1 if gamma is None else gamma.reshape(shape))
    y = y if beta is None else y + beta.reshape(shape)
    if name == "batch_norm":
        return y if residual is None else y + residual, mean.reshape(-1), var.reshape(-1)
    return y
