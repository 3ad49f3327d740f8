"""Results of bnfast.jax have the bits of those on NumPy arrays, and its gradients, too."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

import bnfast
from bnfast_jax.cases import (
    ACTIVATIONS,
    DTYPES,
    NORMS,
    draw,
    jax,
    jnp,
    of_jax,
    of_numpy,
    parameters,
    same,
    x64,
)

SHAPES = [(6, 5), (4, 3, 17), (2, 3, 9, 8), (32, 64), (1, 1), (7, 1, 2)]


def check(name, x, given, dy, *, residual=None, dh=None, jit=True, **options):
    """Compare every result and every gradient with bnfast's own, bit for bit."""
    arrays = [x, *given] + ([] if residual is None else [residual])
    function = of_jax(name, **options)

    def call(*arrays):  # with mean and var, through which no gradient flows here
        made = function(*arrays, has_residual=residual is not None)
        return (made[0], made[1:]) if name == "batch_norm" else (made, ())

    made, pullback, statistics = jax.vjp(jax.jit(call) if jit else call, *arrays, has_aux=True)
    (y, h, mean, var), grads = of_numpy(name, x, given, dy, residual=residual, dh=dh, **options)
    results = [y] if dh is None else [y, h]
    for one, wanted in zip(jax.tree.leaves(made), results, strict=True):
        same(one, wanted)
    for one, wanted in zip(statistics, (mean, var), strict=name == "batch_norm"):
        same(one, wanted)
    cotangent = jnp.asarray(dy) if dh is None else (jnp.asarray(dy), jnp.asarray(dh))
    expected = [g for g in (grads.dx, grads.dgamma, grads.dbeta, grads.dresidual) if g is not None]
    for gradient, wanted in zip(pullback(cotangent), expected, strict=True):
        same(gradient + 0, wanted + wanted.dtype.type(0))  # JAX adds 0 of mean and var to -0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", NORMS)
def test_dtypes_and_shapes(name, dtype, shape):
    x, dy = draw(shape, dtype), draw(shape, dtype, 3)
    axis = 1 if name == "batch_norm" else -1
    with x64() if dtype == np.float64 else nullcontext():
        wide = np.float64 if dtype == np.float64 else np.float32
        check(name, x, parameters(name, x, axis, wide), dy, axis=axis)


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NORMS)
def test_activations_and_residuals(name, activation, has_residual):
    x, dy, dh = (draw((4, 3, 20), seed=seed) for seed in (0, 3, 4))
    residual = draw(x.shape, seed=5) if has_residual else None
    dh = dh if has_residual and name != "batch_norm" else None
    given = parameters(name, x, -1)
    check(name, x, given, dy, residual=residual, dh=dh, axis=-1, activation=activation)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_axes_of_batch_norm(axis):
    x = draw((4, 3, 5))
    check("batch_norm", x, parameters("batch_norm", x, axis), draw(x.shape, seed=3), axis=axis)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_several_last_axes(name):
    x = draw((4, 3, 5))
    check(name, x, parameters(name, x, 1), draw(x.shape, seed=3), axis=(-2, -1), eps=0.1)


@pytest.mark.parametrize("name", NORMS)
def test_parameters_may_be_left_out(name):
    x = draw((4, 3, 5))
    check(name, x, [], draw(x.shape, seed=3))


def test_beta_alone():
    x, beta = draw((4, 3)), draw(3, seed=1)
    y, _, _ = bnfast.jax.batch_norm(x, beta=beta)
    same(y, bnfast.batch_norm(x, beta=beta)[0])


@pytest.mark.parametrize("name", NORMS)
def test_without_jit(name):
    x = draw((4, 3, 5))
    check(name, x, parameters(name, x, -1), draw(x.shape, seed=3), axis=-1, jit=False)


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (2, 0, 5), (0, 0)], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_arrays_without_elements(name, shape, has_residual):
    x = draw(shape)
    axis = 1 if name == "batch_norm" else len(shape) - 1
    residual = x if has_residual else None
    dh = x if has_residual and name != "batch_norm" else None
    check(name, x, parameters(name, x, axis), x, residual=residual, dh=dh, axis=axis)


@pytest.mark.parametrize("name", NORMS)
def test_parameters_of_other_dtypes(name):
    """16-bit ones become float32 first, and their gradients have their dtype."""
    x, dy = draw((6, 5)), draw((6, 5), seed=3)
    halves = parameters(name, x, 1, np.float16)
    made, pullback = jax.vjp(lambda *a: jnp.asarray(jax.tree.leaves(of_jax(name, axis=1)(*a))[0]),
                             x, *halves)  # fmt: skip
    (y, *_), grads = of_numpy(name, x, [p.astype(np.float32) for p in halves], dy, axis=1)
    same(made, y)
    expected = [g.astype(np.float16) for g in (grads.dgamma, grads.dbeta) if g is not None]
    for gradient, wanted in zip(pullback(jnp.asarray(dy))[1:], expected, strict=True):
        same(gradient, wanted)


def test_float64_parameters_of_float32():
    x, gamma = draw((6, 5)), draw(5, np.float64, 1)
    with x64():
        dgamma = jax.grad(lambda g: bnfast.jax.batch_norm(x, g)[0].sum())(gamma)
        same(bnfast.jax.batch_norm(x, gamma)[0], bnfast.batch_norm(x, gamma)[0])
    assert dgamma.dtype == np.float64
