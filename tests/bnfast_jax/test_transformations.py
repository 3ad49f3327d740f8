"""vmap, jit, scan, checkpoint, shard_map, export and threads around the calls of bnfast.jax."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bnfast
from bnfast_jax.cases import NORMS, draw, jax, jnp, of_jax, parameters, same


def first(name, **options):
    """The norm, of whose results only y is returned."""
    function = of_jax(name, axis=-1, **options)
    return lambda *arrays: jax.tree.leaves(function(*arrays))[0]


def loss(name):
    return lambda x, *rest: (first(name, activation="gelu")(x, *rest) ** 3).sum()


def one_by_one(function, axes, *arrays):
    """vmap, as a loop."""
    count = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    made = []
    for i in range(count):
        taken = zip(arrays, axes, strict=True)
        made.append(function(*(a if axis is None else np.take(a, i, axis) for a, axis in taken)))
    return jax.tree.map(lambda *examples: np.stack(examples), *made)


def check(function, axes, *arrays):
    made = jax.jit(jax.vmap(function, axes))(*arrays)
    expected = one_by_one(function, axes, *arrays)
    for one, wanted in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        same(one, wanted)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", NORMS)
def test_vmap_of_x_alone(name, axis):
    x = draw((4, 5, 3, 4))
    check(of_jax(name, axis=-1), (axis,), x)
    given = parameters(name, np.take(x, 0, axis), -1)
    check(of_jax(name, axis=-1), (axis, *(None for _ in given)), x, *given)


@pytest.mark.parametrize("name", NORMS)
def test_vmap_of_parameters(name):
    x = draw((4, 5, 3))
    given = [np.stack([p, 2 * p]) for p in parameters(name, x, -1)]
    check(first(name), (None, *(0 for _ in given)), x, *given)
    check(first(name), (0, *(0 for _ in given)), np.stack([x, -x]), *given)


@pytest.mark.parametrize("name", NORMS)
def test_vmap_of_gradients(name):
    x = draw((4, 5, 3))
    given = parameters(name, x, -1)
    numbers = tuple(range(1 + len(given)))
    gradients = jax.grad(loss(name), numbers)
    check(gradients, (0, *(None for _ in given)), np.stack([x, 2 * x]), *given)


@pytest.mark.parametrize("name", NORMS)
def test_gradients_of_vmap(name):
    """Of parameters that all examples share: the sum over the examples."""
    x = np.stack([draw((4, 5, 3)), draw((4, 5, 3), seed=9)])
    given = parameters(name, x, -1)
    numbers = tuple(range(1 + len(given)))
    axes = (0, *(None for _ in given))
    dx, *others = jax.grad(lambda *a: jax.vmap(loss(name), axes)(*a).sum(), numbers)(x, *given)
    each = one_by_one(jax.grad(loss(name), numbers), axes, x, *given)
    same(dx, each[0])
    for made, expected in zip(others, each[1:], strict=True):
        np.testing.assert_allclose(made, expected.sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_vmap_of_cotangents(name):
    """As in a Jacobian: many dy for the same x and state."""
    x, dy = draw((4, 5)), draw((3, 4, 5), seed=3)
    given = parameters(name, x, -1)
    _, pullback = jax.vjp(first(name), x, *given)
    check(pullback, (0,), dy)


def test_vmap_of_vmap():
    """Axes of both stand before the buffers' own; an operand may lack either."""
    x, gamma = draw((2, 6, 5)), draw((3, 5), seed=1)
    both = jax.vmap(jax.vmap(bnfast.jax.layer_norm, (None, 0)), (0, None))(x, gamma)
    for i in range(2):
        for j in range(3):
            same(both[i, j], bnfast.layer_norm(x[i], gamma[j])[0])


def test_vmap_with_residuals():
    x, r = draw((4, 5, 3)), draw((4, 5, 3), seed=5)
    check(lambda x, r: bnfast.jax.layer_norm(x, residual=r), (0, None), x, r[0])
    check(lambda x, r: bnfast.jax.batch_norm(x, residual=r), (None, 0), x[0], r)


def test_vmap_of_no_examples():
    assert jax.vmap(bnfast.jax.layer_norm)(draw((0, 5, 3))).shape == (0, 5, 3)


def test_vmap_of_mean_and_var():
    x = draw((3, 4, 5))
    check(jax.grad(lambda x: (bnfast.jax.batch_norm(x)[2] ** 2).sum()), (0,), x)


@pytest.mark.parametrize("name", NORMS)
def test_checkpoint_and_scan(name):
    """Layers as one loop, whose forward pass is computed again in the backward pass."""
    x, layers = draw((6, 5)), np.stack([draw(5, seed=seed) for seed in range(3)])

    def network(block):
        def run(x, layers):
            return (jax.lax.scan(lambda x, gamma: (block(x, gamma), None), x, layers)[0] ** 2).sum()

        return jax.jit(jax.grad(run, (0, 1)))(x, layers)

    plain, again = network(first(name)), network(jax.checkpoint(first(name)))
    for made, expected in zip(again, plain, strict=True):
        same(made, np.asarray(expected))

    def unrolled(x, layers):
        for gamma in layers:
            x = first(name)(x, gamma)
        return (x**2).sum()

    for made, expected in zip(plain, jax.grad(unrolled, (0, 1))(x, layers), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="this JAX has it elsewhere")
@pytest.mark.parametrize("name", NORMS)
def test_gradients_in_shard_map(name):
    x, gamma = draw((8, 6)), draw((6,), seed=1)
    split, whole = jax.sharding.PartitionSpec("rows"), jax.sharding.PartitionSpec()
    step = jax.shard_map(
        jax.grad(loss(name), (0, 1)),
        mesh=jax.sharding.Mesh(jax.devices()[:1], ("rows",)),
        in_specs=(split, whole),
        out_specs=(split, whole),
        check_vma=False,
    )
    jax.tree.map(same, jax.jit(step)(x, gamma), jax.jit(jax.grad(loss(name), (0, 1)))(x, gamma))


def test_exported_programs():
    names = ("bnfast_jax_forward", "bnfast_jax_backward", "bnfast_jax_dropout")
    allowed = [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]
    step = jax.jit(jax.grad(lambda x: loss("layer_norm")(bnfast.jax.dropout(x, 0.1, 7))))
    x = draw((8, 6))
    with pytest.raises(ValueError, match="custom calls"):
        jax.export.export(step)(x)
    stored = jax.export.export(step, disabled_checks=allowed)(x).serialize()
    same(jax.export.deserialize(stored).call(x), step(x))


def test_donated_memory():
    x = draw((64, 32))
    norm = jax.jit(lambda x: bnfast.jax.batch_norm(x, residual=x)[0], donate_argnums=0)
    same(norm(jnp.array(x)), bnfast.batch_norm(x, residual=x)[0])


def test_threads_and_their_number_change_nothing():
    x = draw((64, 32, 14, 14))
    step = jax.jit(jax.grad(lambda x: (bnfast.jax.batch_norm(x, activation="gelu")[0] ** 2).sum()))
    expected = np.asarray(step(x))
    with ThreadPoolExecutor(4) as pool:
        for made in pool.map(lambda _: step(x), range(16)):
            same(made, expected)
    with bnfast.num_threads(1):
        same(step(x), expected)


def test_intermediate_results_of_xla():
    """Transposed and computed operands arrive in the order that the calls expect."""
    x = draw((6, 5, 4))
    made = jax.jit(lambda x: bnfast.jax.batch_norm(jnp.transpose(x, (2, 1, 0)) * 2)[0])(x)
    same(made, bnfast.batch_norm(np.ascontiguousarray(x.transpose(2, 1, 0)) * 2)[0])
