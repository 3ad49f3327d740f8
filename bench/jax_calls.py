"""Times bnfast.jax beside jitted jax.numpy and Flax, and prints the table of docs/jax.md.

python bench/jax_calls.py --rounds 15
python bench/jax_calls.py --smoke    # that it works; its times say nothing
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from timing import measure

import bnfast.jax
import bnfast.jax.linen

EPS = 1e-5
# Name, axis of the channels or of what is normalised, shapes.
CASES: dict[str, tuple[int, list[tuple[int, ...]]]] = {
    "batch norm": (1, [(32, 64), (1024, 256), (32, 64, 56, 56)]),
    "batch norm, channels last": (-1, [(32, 56, 56, 64)]),
    "layer norm": (-1, [(32, 64), (1024, 256), (8, 512, 768)]),
    "RMS norm": (-1, [(1024, 256), (8, 512, 768)]),
}
SMOKE: dict[str, tuple[int, list[tuple[int, ...]]]] = {
    name: (axis, [(4, 6)]) for name, (axis, _) in CASES.items()
}
Norm = Callable[..., Any]


def textbook(name: str, axis: int) -> Norm:
    """The formula, which XLA fuses."""

    def norm(x: Any, gamma: Any, beta: Any) -> Any:
        over = [d for d in range(x.ndim) if ("batch" in name) == (d != axis % x.ndim)]
        mean = 0 if name == "RMS norm" else x.mean(over, keepdims=True)
        var = jnp.square(x - mean).mean(over, keepdims=True)
        shape = [n if d == axis % x.ndim else 1 for d, n in enumerate(x.shape)]
        y = (x - mean) * jax.lax.rsqrt(var + EPS) * gamma.reshape(shape)
        return y if name == "RMS norm" else y + beta.reshape(shape)

    return norm


def ours(name: str, axis: int) -> Norm:
    if name == "RMS norm":
        return lambda x, gamma, beta: bnfast.jax.rms_norm(x, gamma, eps=EPS)
    if name == "layer norm":
        return lambda x, gamma, beta: bnfast.jax.layer_norm(x, gamma, beta, eps=EPS)
    return lambda x, gamma, beta: bnfast.jax.batch_norm(x, gamma, beta, axis=axis, eps=EPS)[0]


def flax(name: str, axis: int, module: Any = linen) -> Norm:
    """A layer of flax.linen; batch norm updates its running statistics, as it does in training."""
    if name == "RMS norm":
        layer = linen.RMSNorm(epsilon=EPS)
    elif name == "layer norm":
        layer = linen.LayerNorm(epsilon=EPS)
    else:
        layer = module.BatchNorm(use_running_average=False, axis=axis, epsilon=EPS)

    def norm(x: Any, gamma: Any, beta: Any) -> Any:
        parameters = {"scale": gamma} if name == "RMS norm" else {"scale": gamma, "bias": beta}
        stats = {"mean": jnp.zeros_like(gamma), "var": jnp.ones_like(gamma)}
        variables = {"params": parameters, "batch_stats": stats}
        return layer.apply(variables, x, mutable=["batch_stats"])[0]

    return norm


def calls(name: str, axis: int, shape: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Compiled and warm calls, by what is timed and by library."""
    draw = np.random.default_rng(0).standard_normal
    x, dy = (jnp.asarray(draw(shape), jnp.float32) for _ in range(2))
    gamma, beta = (jnp.asarray(draw(shape[axis]), jnp.float32) for _ in range(2))
    norms = {
        "bnfast": ours(name, axis),
        "jax.numpy": textbook(name, axis),
        "Flax": flax(name, axis),
    }
    made: dict[str, dict[str, Any]] = {"forward": {}, "forward and backward": {}}
    for library, norm in norms.items():

        def both(x: Any, gamma: Any, beta: Any, dy: Any, norm: Norm = norm) -> Any:
            y, pullback = jax.vjp(norm, x, gamma, beta)
            return y, pullback(dy)

        for kind, function in (("forward", norm), ("forward and backward", both)):
            arrays = (x, gamma, beta) if kind == "forward" else (x, gamma, beta, dy)
            compiled = jax.jit(function).lower(*arrays).compile()
            made[kind][library] = lambda c=compiled, a=arrays: jax.block_until_ready(c(*a))
            made[kind][library]()
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args(arguments)
    print("| microseconds, float32 | | bnfast | jax.numpy | Flax |\n|---|---|---:|---:|---:|")
    for name, (axis, shapes) in (SMOKE if options.smoke else CASES).items():
        for shape in shapes:
            for kind, contenders in calls(name, axis, shape).items():
                seconds = measure(contenders, 1 if options.smoke else options.rounds)
                times = [statistics.median(s) * 1e6 for s in seconds.values()]
                numbers = " | ".join(f"{time:,.0f}" for time in times)
                print(f"| {name} {shape} | {kind} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
