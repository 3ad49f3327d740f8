"""Gradients of bnfast.jax: through mean and var, of other transformations, and of gradients."""

from __future__ import annotations

import numpy as np
import pytest

import bnfast
from bnfast_jax.cases import (
    ACTIVATIONS,
    NORMS,
    draw,
    jax,
    jnp,
    of_jax,
    parameters,
    same,
    textbook,
    x64,
)

check_grads = pytest.importorskip("jax.test_util").check_grads


def arguments(name, has_residual, shape=(4, 3, 5)):
    x = draw(shape, np.float64)
    residual = [draw(shape, np.float64, 5)] if has_residual else []
    return [x, *parameters(name, x, -1, np.float64), *residual]


@pytest.mark.parametrize(
    ("name", "activation", "has_residual"),
    [("batch_norm", activation, False) for activation in ACTIVATIONS]
    + [(name, "gelu", True) for name in NORMS],
)
def test_against_differences(name, activation, has_residual):
    """Gradients, and their own gradients, of every result that a norm has."""
    function = of_jax(name, axis=-1, activation=activation)
    with x64():
        given = arguments(name, has_residual)
        check_grads(lambda *a: function(*a, has_residual=has_residual), given, 2, modes=["rev"])


@pytest.mark.parametrize("name", NORMS)
def test_against_the_textbook(name):
    """A loss of y, mean and var together, and the gradient of a penalty of its gradient."""
    with x64():
        given = arguments(name, False)
        weights = draw(given[0].shape, np.float64, 7)

        def loss(function, *arrays):
            made = function(*arrays)
            y, *statistics = made if name == "batch_norm" else [made]
            return (weights * y**2).sum() + sum((s**3).sum() for s in statistics)

        def penalty(function, *arrays):
            return (jax.grad(loss, 1)(function, *arrays) ** 2).sum()

        ours = of_jax(name, axis=-1, eps=1e-5)
        for value in (loss, penalty):
            numbers = tuple(range(1, 1 + len(given)))
            made = jax.jit(jax.grad(value, numbers), static_argnums=0)(ours, *given)
            plain = jax.grad(value, numbers)(lambda *a: textbook(name, *a, axis=-1), *given)
            for gradient, expected in zip(made, plain, strict=True):
                np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", [1, 2])
def test_of_a_loss_of_mean_or_var_alone(which):
    x = draw((4, 3, 5))
    dx = jax.grad(lambda x: bnfast.jax.batch_norm(x)[which].sum())(x)
    by_hand = np.full_like(x, 1 / 20)
    if which == 2:
        by_hand = 2 * (x - x.mean((0, 2), keepdims=True)) / 20
    np.testing.assert_allclose(dx, by_hand, rtol=1e-5, atol=1e-7)


def test_statistics_that_no_loss_depends_on_cost_nothing():
    """Their gradient is plain arithmetic, which is not in the program then."""

    def loss(x, of_var):
        y, _, var = bnfast.jax.batch_norm(x)
        return y.sum() + (var.sum() if of_var else 0)

    def program(of_var):
        return jax.jit(jax.grad(loss), static_argnums=1).lower(draw((4, 3)), of_var).as_text()

    assert "stablehlo.divide" not in program(False)
    assert "stablehlo.divide" in program(True)


def test_h_carries_the_residual_stream():
    """Two blocks, as a Transformer has them: h of the first is the residual of the second."""
    x, r = (draw((4, 6), np.float64, seed) for seed in (0, 1))

    def ours(x, r):
        y, h = bnfast.jax.layer_norm(x, residual=r)
        z, h = bnfast.jax.rms_norm(y, residual=h)
        return (z**3).sum() + (h**2).sum()

    def plain(x, r):
        h = x + r
        y = textbook("layer_norm", h, axis=-1)
        h = y + h
        return (textbook("rms_norm", h, axis=-1, eps=1e-6) ** 3).sum() + (h**2).sum()

    with x64():
        for made, expected in zip(
            jax.grad(ours, (0, 1))(x, r), jax.grad(plain, (0, 1))(x, r), strict=True
        ):
            np.testing.assert_allclose(made, expected, rtol=1e-10, atol=1e-10)


def test_one_array_as_x_and_residual():
    x, dy = draw((4, 6)), draw((4, 6), seed=3)
    dx = jax.vjp(lambda x: bnfast.jax.batch_norm(x, residual=x)[0], x)[1](jnp.asarray(dy))[0]
    _, ctx = bnfast.batch_norm(x, residual=x)
    grads = bnfast.batch_norm_backward(dy, ctx)
    same(dx, grads.dx + grads.dresidual)


def test_forward_mode_is_refused_by_jax():
    x = jnp.asarray(draw((4, 6)))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(bnfast.jax.layer_norm, (x,), (x,))
