"""The BatchNorm of bnfast.jax.linen and bnfast.jax.nnx against Flax's own, whose place it takes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from bnfast_jax.cases import draw, jax, jnp

pytest.importorskip("flax")

from flax import linen, nnx

import bnfast.jax.linen
import bnfast.jax.nnx

OPTIONS = [
    {},
    {"use_scale": False},
    {"use_bias": False},
    {"axis": 1, "momentum": 0.5, "epsilon": 0.1},
    {"param_dtype": jnp.bfloat16},
    {"scale_init": linen.initializers.normal(), "bias_init": linen.initializers.normal()},
]


def close(made, expected):
    """Equal but for rounding, which is coarse where Flax computes in bfloat16."""
    for one, wanted in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (wanted.shape, wanted.dtype)
        atol = 0.1 if one.dtype == jnp.bfloat16 else 1e-5
        wide = (np.asarray(a, np.float64) for a in (one, wanted))
        np.testing.assert_allclose(*wide, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16], ids=str)
@pytest.mark.parametrize("x_dtype", [jnp.float32, jnp.bfloat16, jnp.int32], ids=lambda d: d.dtype)
@pytest.mark.parametrize("options", [*OPTIONS, {"axis": (1, 2)}], ids=str)
def test_linen_in_training(options, x_dtype, dtype):
    x = jnp.asarray(draw((8, 6, 3)), x_dtype)
    norms = [m.BatchNorm(False, dtype=dtype, **options) for m in (bnfast.jax.linen, linen)]
    ours, flax = (norm.init(jax.random.key(0), x) for norm in norms)
    for one, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(flax), strict=True):
        np.testing.assert_array_equal(one, wanted)
    assert jax.tree.structure(ours) == jax.tree.structure(flax)
    ours, flax = (norm.apply(flax, x, mutable=["batch_stats"]) for norm in norms)
    close(ours, flax)


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16], ids=str)
@pytest.mark.parametrize("x_dtype", [jnp.float32, jnp.bfloat16, jnp.int32], ids=lambda d: d.dtype)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_nnx_in_training(options, x_dtype, dtype):
    x = jnp.asarray(draw((8, 6, 3)), x_dtype)
    channels = x.shape[options.get("axis", -1)]
    norms = [
        m.BatchNorm(channels, dtype=dtype, rngs=nnx.Rngs(0), **options)
        for m in (bnfast.jax.nnx, nnx)
    ]
    close(*(norm(x) for norm in norms))
    close(*(nnx.to_pure_dict(nnx.state(norm)) for norm in norms))


def network(norm):
    """A module whose variables have the names that Flax gives them."""

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x = linen.Dense(4)(x)
            return norm(momentum=0.9)(x, use_running_average=not train)

    return Network()


def test_linen_trains_as_flax_does():
    """Gradients, and running statistics which inference then uses, from the same variables."""
    x = draw((16, 3))

    def loss(parameters, stats, network):
        variables = {"params": parameters, "batch_stats": stats}
        y, updates = network.apply(variables, x, train=True, mutable=["batch_stats"])
        return (y**3).mean(), updates["batch_stats"]

    trained = []
    for norm in (bnfast.jax.linen.BatchNorm, linen.BatchNorm):
        model = network(norm)
        variables = model.init(jax.random.key(0), x, train=True)
        parameters, stats = variables["params"], variables["batch_stats"]
        step = jax.jit(jax.grad(loss, has_aux=True), static_argnums=2)
        for _ in range(3):
            gradient, stats = step(parameters, stats, model)
            parameters = jax.tree.map(lambda p, g: p - 0.1 * g, parameters, gradient)
        variables = {"params": parameters, "batch_stats": stats}
        trained.append((variables, model.apply(variables, x, train=False)))
    ours, flax = trained
    assert jax.tree.structure(ours) == jax.tree.structure(flax)
    close(ours, flax)


def test_nnx_trains_as_flax_does():
    x = draw((16, 3))

    def loss(norm):
        return (norm(x) ** 3).mean()

    trained = []
    for module in (bnfast.jax.nnx, nnx):
        norm = module.BatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0))
        norm.train()
        gradient = nnx.jit(nnx.grad(loss))(norm)
        norm.eval()
        trained.append((nnx.to_pure_dict(gradient), nnx.to_pure_dict(nnx.state(norm)), norm(x)))
    close(*trained)


@pytest.mark.parametrize("how", ["mask", "axis_name"])
def test_what_is_left_to_flax(how):
    """A mask, and statistics that workers share."""
    options = {"axis_name": "workers"} if how == "axis_name" else {}
    mask = np.arange(4)[:, None] < 3 if how == "mask" else None

    def train(plain, tree, x):
        norm = plain.BatchNorm(False, **options)
        variables = norm.init(jax.random.key(0), x)
        y, updates = norm.apply(variables, x, mutable=["batch_stats"], mask=mask)
        layer = tree.BatchNorm(3, rngs=nnx.Rngs(0), **options)
        return y, updates, layer(x, mask=mask), layer.var[...]

    made = []
    for modules in ((bnfast.jax.linen, bnfast.jax.nnx), (linen, nnx)):
        workers = jax.vmap(partial(train, *modules), axis_name="workers")
        made.append(workers(draw((2, 4, 3))))
    close(*made)


def test_the_mode_must_be_known():
    with pytest.raises(Exception, match="use_running_average"):
        bnfast.jax.linen.BatchNorm().init(jax.random.key(0), draw((4, 3)))
    layer = bnfast.jax.nnx.BatchNorm(3, use_running_average=None, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="use_running_average"):
        layer(draw((4, 3)))
