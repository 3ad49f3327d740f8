"""Dropout in JAX: the mask of bnfast.dropout_mask, from every kind of seed, traced or not."""

from __future__ import annotations

import numpy as np
import pytest

import bnfast
from bnfast_jax.cases import DTYPES, draw, jax, jnp, same, x64

LARGE = 2**64 - 3


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
def test_values_and_gradients(dtype, rate):
    with x64():  # without which float64 would become float32
        x, dy = draw((5, 40), dtype), draw((5, 40), dtype, 3)
        y, pullback = jax.vjp(lambda x: bnfast.jax.dropout(x, rate, 7), x)
        expected, ctx = bnfast.dropout(x, rate, seed=7)
        same(y, expected)
        same(pullback(jnp.asarray(dy))[0], bnfast.dropout_backward(dy, ctx))


@pytest.mark.parametrize("shape", [(), (3, 0), (1,), (1000,), (2, 3, 4, 5)], ids=str)
def test_shapes(shape):
    x = draw(shape)
    same(bnfast.jax.dropout(x, 0.5, 7), bnfast.dropout(x, 0.5, seed=7)[0])


@pytest.mark.parametrize(
    ("seed", "number"),
    [
        (LARGE, LARGE),
        (np.uint32(7), 7),
        (np.int32(7), 7),
        (np.int32(-1), 2**32 - 1),
        (np.uint8(7), 7),
        (jax.random.key(7), 7),
        (jax.random.PRNGKey(7), 7),
        (jnp.array([1, 2], jnp.uint32), 2**32 + 2),
    ],
    ids=repr,
)
def test_seeds(seed, number):
    """A number, concrete or traced, and the keys of JAX."""
    x = draw((1000,))
    expected, _ = bnfast.dropout(x, 0.5, seed=number)
    same(bnfast.jax.dropout(x, 0.5, seed), expected)
    if seed is not LARGE:
        same(jax.jit(lambda x, seed: bnfast.jax.dropout(x, 0.5, seed))(x, seed), expected)


@pytest.mark.parametrize(
    "seed", [np.uint64(LARGE), np.int64(LARGE - 2**64), np.array(LARGE)], ids=repr
)
def test_seeds_of_64_bits(seed):
    x = draw((1000,))
    with x64():
        made = jax.jit(lambda x, seed: bnfast.jax.dropout(x, 0.5, seed))(x, seed)
    same(made, bnfast.dropout(x, 0.5, seed=LARGE)[0])
    same(bnfast.jax.dropout(x, 0.5, seed), made)  # although JAX has no integers of 64 bits now


def test_a_key_of_another_kind_is_refused():
    key = jax.random.key(7, impl="rbg")  # four words
    with pytest.raises(TypeError, match=r"seed has shape \(4,\) and dtype uint32, expected one"):
        bnfast.jax.dropout(draw((3,)), 0.5, key)


def test_one_program_for_all_seeds():
    compiled = []

    @jax.jit
    def drop(x, seed):
        compiled.append(seed)
        return bnfast.jax.dropout(x, 0.5, seed)

    x = draw((1000,))
    for seed in range(3):
        same(drop(x, seed), bnfast.dropout(x, 0.5, seed=seed)[0])
    assert len(compiled) == 1


def test_in_a_scan_with_a_seed_for_each_step():
    x = draw((100,))

    def step(x, seed):
        return bnfast.jax.dropout(x, 0.1, seed), None

    made, _ = jax.lax.scan(step, jnp.asarray(x), jnp.arange(3))
    for seed in range(3):
        x, _ = bnfast.dropout(x, 0.1, seed=seed)
    same(made, x)


def test_examples_of_vmap():
    """Each has the mask of its own shape and seed; one seed for all means one mask for all."""
    x = draw((4, 100))

    def drop(x, seed):
        return bnfast.jax.dropout(x, 0.5, seed)

    seeds = jnp.arange(4)
    own = np.stack([bnfast.dropout(row, 0.5, seed=seed)[0] for seed, row in enumerate(x)])
    same(jax.vmap(drop)(x, seeds), own)
    shared = np.stack([bnfast.dropout(row, 0.5, seed=7)[0] for row in x])
    same(jax.vmap(drop, (0, None))(x, 7), shared)
    one = np.stack([bnfast.dropout(x[0], 0.5, seed=seed)[0] for seed in range(4)])
    same(jax.vmap(drop, (None, 0))(x[0], seeds), one)
    keys = jax.random.split(jax.random.key(0), 4)
    numbers = [int(high) << 32 | int(low) for high, low in np.asarray(jax.random.key_data(keys))]
    each = [bnfast.dropout(row, 0.5, seed=n)[0] for row, n in zip(x, numbers, strict=True)]
    same(jax.vmap(drop)(x, keys), np.stack(each))


def test_gradients_of_gradients():
    x = draw((100,))
    mask = bnfast.dropout_mask((100,), 0.5, seed=7)

    def penalty(x):
        return (jax.grad(lambda x: (bnfast.jax.dropout(x, 0.5, 7) ** 2).sum())(x) ** 2).sum() / 2

    np.testing.assert_allclose(jax.grad(penalty)(x), 64 * x * mask, rtol=1e-6)
