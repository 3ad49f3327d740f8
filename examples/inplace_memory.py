"""Halve the memory that a network keeps for its backward pass, by batch norm in place.

    python examples/inplace_memory.py               # a few seconds

A network of linear layers, each followed by batch norm and leaky ReLU, keeps two arrays a layer for
backward: x, which batch norm needs, and y, which the next linear layer needs. With ``out=x`` batch
norm writes y over x, and its backward works from y alone, as leaky ReLU and the affine map can be
undone (Rota Bulo, Porzi & Kontschieder, "In-Place Activated BatchNorm for Memory-Optimized Training
of DNNs", CVPR 2018). Prints the peak memory of both ways and how far their gradients are apart, and
exits with 1 if they are not the same but for rounding.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tracemalloc
from dataclasses import dataclass

import numpy as np

import bnfast

LAYERS = 20
CHANNELS = 64
SLOPE = 0.1  # of leaky ReLU, for negative arguments
ALLOWED = 1e-4  # difference of gradients, as a share of the largest


@dataclass
class Layer:
    """leaky_relu(BN(a W))."""

    weight: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray


def make_layers(rng: np.random.Generator) -> list[Layer]:
    """Draw parameters; no gamma may be 0, or x could not be told from y."""
    return [
        Layer(
            rng.normal(0, CHANNELS**-0.5, (CHANNELS, CHANNELS)).astype(np.float32),
            rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32),
            rng.normal(0, 0.1, CHANNELS).astype(np.float32),
        )
        for _ in range(LAYERS)
    ]


def gradients(a: np.ndarray, layers: list[Layer], *, in_place: bool) -> list[np.ndarray]:
    """Go forward and backward; return the gradients of all parameters and of the input.

    The loss is the mean of the squares of the last output, divided by 2.
    """
    tape = []
    for layer in layers:
        x = a @ layer.weight
        y, ctx = bnfast.batch_norm(
            x,
            layer.gamma,
            layer.beta,
            activation="leaky_relu",
            activation_slope=SLOPE,
            out=x if in_place else None,
        )
        tape.append((layer, a, ctx))
        a = y
        del x, y, ctx  # what the tape does not hold goes
    dy = a / a.size
    del a
    found = []
    while tape:
        layer, a, ctx = tape.pop()
        grads = bnfast.batch_norm_backward(dy, ctx, out=dy)
        found += [a.T @ grads.dx, grads.dgamma, grads.dbeta]
        dy = grads.dx @ layer.weight.T
        del layer, a, ctx, grads
    return [*found, dy]


def measure(a: np.ndarray, layers: list[Layer], *, in_place: bool) -> tuple[float, float, list]:
    """Return the peak of NumPy's arrays and of the process so far, in MB, and the gradients."""
    tracemalloc.start()
    found = gradients(a, layers, in_place=in_place)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return peak / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, found


def main(arguments: list[str] | None = None) -> int:
    """Run both ways, print what they took; return the exit status."""
    parser = argparse.ArgumentParser(description="Memory of batch norm in place and not.")
    parser.add_argument("--rows", type=int, default=32768, help="samples in the batch")
    rows = parser.parse_args(arguments).rows

    rng = np.random.default_rng(0)
    layers = make_layers(rng)
    a = rng.normal(size=(rows, CHANNELS)).astype(np.float32)
    # In place goes first: the peak of a process never falls, so the larger one has to come last.
    measured = {in_place: measure(a, layers, in_place=in_place) for in_place in (True, False)}

    print(f"{LAYERS} layers, activations of {a.nbytes / 1e6:.1f} MB each\n")
    print("             peak of arrays   peak of the process")
    for in_place, (arrays, process, _) in measured.items():
        name = "in place" if in_place else "ordinary"
        print(f"  {name}   {arrays:11.1f} MB   {process:16.1f} MB")
    difference = max(
        float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        for ours, theirs in zip(measured[True][2], measured[False][2], strict=True)
    )
    print(f"\nlargest difference of a gradient, as a share of the largest entry: {difference:.1e}")
    share = measured[True][0] / measured[False][0]
    print(f"memory in place: {100 * share:.0f} % of the ordinary")
    if not (difference < ALLOWED and share < 0.7):
        print(f"FAILED: expected a difference below {ALLOWED:g} and 70 %", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
