"""What a network keeps for its backward pass: formulas, and the bytes that are really held.

    python examples/lectures/memory.py            # a few seconds
    python examples/lectures/memory.py --quick    # fewer layers

A layer is a linear map, batch norm or none, and leaky ReLU. Until backward has come to it, it keeps
one or two arrays of d units by B samples. With `out=x` batch norm writes its output over its input,
and its backward works from the output alone, as leaky ReLU and the affine map can be undone (Rota
Bulo, Porzi & Kontschieder 2018). docs/lectures/memory.md says what comes out.
"""

from __future__ import annotations

import argparse
import tracemalloc
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from lab import PALETTE, Checks, arguments, digits, new_figure, run, save, table
from networks import he, softmax_cross_entropy

import bnfast

SLOPE = 0.1  # of leaky ReLU, for negative arguments
EPS = 1e-5
DROPPED = 0.5
NUMBERS = 14  # what bnfast keeps for a channel, in float32: 7 numbers of float64


class Plain:
    """a = leaky_relu(z), written over z: d B numbers, as the next layer needs a.

    Every kind of layer says what it keeps by the books: `arrays` of d B float32 numbers, and
    `numbers` of float32 a unit.
    """

    name, arrays, numbers = "no norm", 1.0, 0

    def __init__(self, units: int, seed: int, dtype: Any) -> None:
        rng = np.random.default_rng(seed)
        # No gamma may be 0, or z could not be told from the output.
        self.gamma = rng.uniform(0.5, 1.5, units).astype(dtype)
        self.beta = rng.normal(0.0, 0.1, units).astype(dtype)
        self.seed = seed

    def forward(self, z: np.ndarray) -> np.ndarray:
        """Return the output, and keep what backward needs."""
        np.multiply(z, SLOPE, out=z, where=z < 0)
        self.a = z
        return z

    def backward(self, da: np.ndarray) -> tuple[Any, ...]:
        """Return the gradients of z and of the parameters, if any; `da` is overwritten."""
        np.multiply(da, SLOPE, out=da, where=self.a < 0)
        return (da,)

    def unseen(self) -> int:
        """Return the bytes kept that are not in NumPy's arrays, where tracemalloc sees them."""
        return 0


class Textbook(Plain):
    """Ioffe & Szegedy's formulas in NumPy: x_hat and a, a mean and a variance, 2 d B + 2 d."""

    name, arrays, numbers = "textbook batch norm", 2.0, 2

    def forward(self, z: np.ndarray) -> np.ndarray:
        self.mean, self.var = z.mean(axis=0), z.var(axis=0)
        z -= self.mean
        z /= np.sqrt(self.var + EPS)
        self.x_hat = z
        return super().forward(self.gamma * self.x_hat + self.beta)

    def backward(self, da: np.ndarray) -> tuple[Any, ...]:
        (dy,) = super().backward(da)
        dgamma, dbeta = (dy * self.x_hat).sum(axis=0), dy.sum(axis=0)
        dy -= (dbeta + self.x_hat * dgamma) / len(dy)
        dy *= self.gamma / np.sqrt(self.var + EPS)
        return dy, dgamma, dbeta


class Ordinary(Plain):
    """bnfast with a result of its own: z and a, and some numbers a channel."""

    name, arrays, numbers = "bnfast", 2.0, NUMBERS
    rate = 0.0
    in_place = False

    def forward(self, z: np.ndarray) -> np.ndarray:
        options: dict[str, Any] = {"dropout": self.rate, "seed": self.seed} if self.rate else {}
        self.a, self.ctx = bnfast.batch_norm(
            z,
            self.gamma,
            self.beta,
            eps=EPS,
            activation="leaky_relu",
            activation_slope=SLOPE,
            out=z if self.in_place else None,
            **options,
        )
        return self.a

    def backward(self, da: np.ndarray) -> tuple[Any, ...]:
        return bnfast.batch_norm_backward(da, self.ctx, out=da)[:3]

    def unseen(self) -> int:
        return int(self.ctx.numbers.nbytes)


class Overwriting(Ordinary):
    """bnfast with out=z: only a, and some numbers a channel."""

    name, arrays = "bnfast, out=x", 1.0
    in_place = True


class NormAndDropout(Ordinary):
    """bnfast's batch norm with dropout in the same pass: nothing more is kept."""

    name = "bnfast with dropout"
    rate = DROPPED


class StoredMask(Plain):
    """Dropout behind leaky ReLU that keeps its mask, a byte an element: d B / 4 floats more."""

    name, arrays = "no norm, mask stored", 1.25

    def forward(self, z: np.ndarray) -> np.ndarray:
        a = super().forward(z)
        self.mask = bnfast.dropout_mask(a.shape, DROPPED, seed=self.seed)
        a *= self.mask
        a /= 1 - DROPPED
        return a

    def backward(self, da: np.ndarray) -> tuple[Any, ...]:
        da *= self.mask
        da /= 1 - DROPPED
        return super().backward(da)  # what was dropped has gradient 0, whatever its sign was


class RecomputedMask(Plain):
    """The same, but the mask is computed again from its seed and offset."""

    name = "no norm, mask recomputed"

    def forward(self, z: np.ndarray) -> np.ndarray:
        a = super().forward(z)
        _, self.ctx = bnfast.dropout(a, DROPPED, seed=self.seed, out=a)
        return a

    def backward(self, da: np.ndarray) -> tuple[Any, ...]:
        bnfast.dropout_backward(da, self.ctx, out=da)
        return super().backward(da)


KINDS = (Plain, StoredMask, RecomputedMask, Textbook, Ordinary, NormAndDropout, Overwriting)
SWEPT = {Plain: PALETTE[6], Textbook: PALETTE[1], Ordinary: PALETTE[0], Overwriting: PALETTE[2]}
STYLES: dict[type[Plain], str] = {Ordinary: "--", Overwriting: "--"}  # these two lie on others


@dataclass
class Measured:
    """The bytes of a forward and a backward pass, and the gradients."""

    held: list[int]  # after each layer, forward and then backward, but for parameters' gradients
    peak: int  # at any moment, with parameters' gradients
    gradients: list[np.ndarray]

    @property
    def kept(self) -> int:
        """Between forward and backward."""
        return self.held[len(self.held) // 2 - 1]


def make_weights(inputs: int, units: int, layers: int) -> list[np.ndarray]:
    """Draw the weights of all linear maps, as (inputs, outputs): the layers', and the head's."""
    rng = np.random.default_rng(0)
    sizes = [inputs, *[units] * layers, 10]
    return [he(rng, fan_out, fan_in).T.copy() for fan_in, fan_out in pairwise(sizes)]


def measure(
    kind: type[Plain], x: np.ndarray, labels: np.ndarray, weights: list[np.ndarray]
) -> Measured:
    """Go forward and backward once; the last of the weights turn into logits."""
    *weights, head = weights
    blocks = [kind(weight.shape[1], seed, weight.dtype) for seed, weight in enumerate(weights)]
    held, gradients, unseen, peak = [], [], 0, 0
    tracemalloc.start()
    inputs, a = [], x
    for block, weight in zip(blocks, weights, strict=True):
        inputs.append(a)
        a = block.forward(a @ weight)
        unseen += block.unseen()
        now, highest = tracemalloc.get_traced_memory()
        held.append(now + unseen)
        peak = max(peak, highest + unseen)
        tracemalloc.reset_peak()
    _, dlogits = softmax_cross_entropy(a @ head, labels)
    da = dlogits @ head.T
    del a, dlogits
    while blocks:
        block, a = blocks.pop(), inputs.pop()
        dz, *of_parameters = block.backward(da)
        released = block.unseen()
        gradients += [a.T @ dz, *of_parameters]
        da = dz @ weights[len(blocks)].T
        del block, a, dz
        now, highest = tracemalloc.get_traced_memory()
        peak = max(peak, highest + unseen)
        tracemalloc.reset_peak()
        unseen -= released
        held.append(now + unseen - sum(gradient.nbytes for gradient in gradients))
    tracemalloc.stop()
    return Measured(held, peak, gradients)


def formula(kind: type[Plain]) -> str:
    """Return what a layer keeps in float32 numbers, as one writes it."""
    arrays = "d B" if kind.arrays == 1 else f"{kind.arrays:g} d B"
    return f"{arrays} + {kind.numbers} d" if kind.numbers else arrays


def expected(kind: type[Plain], samples: int, units: int) -> float:
    """Return the bytes of one layer by the formula."""
    return 4.0 * units * (kind.arrays * samples + kind.numbers)


def report(options: argparse.Namespace, checks: Checks) -> dict[type[Plain], Measured]:
    """Print formula and measurement for each kind of layer; check the bytes."""
    data = digits(0)
    x, labels = data.x_train, data.y_train
    weights = make_weights(x.shape[1], options.units, options.layers)
    seen = {kind: measure(kind, x, labels, weights) for kind in KINDS}
    rows = []
    for kind, measured in seen.items():
        a_layer, books = measured.kept / options.layers, expected(kind, len(x), options.units)
        cells = [f"{value / 1e6:.4f}" for value in (books, a_layer)]
        cells += [f"{a_layer - books:.0f}", f"{measured.kept / 1e6:.1f}"]
        rows.append((kind.name, formula(kind), *cells, f"{measured.peak / 1e6:.1f}"))
        # What is left is NumPy's and Python's own: the objects, and their entries in lists.
        failure = f"{kind.name}: a layer keeps {a_layer:.0f} bytes, not {books:.0f}"
        checks(abs(a_layer - books) < 2000, failure)
    title = f"{options.layers} layers of d = {options.units} units, B = {len(x)} samples"
    headers = ("layer", "float32 numbers", "formula (MB)", "measured (MB)", "more (bytes)")
    table((*headers, "all layers (MB)", "peak (MB)"), rows, title=title)
    share = seen[Overwriting].peak / seen[Ordinary].peak
    print(f"\nPeak with out=x: {100 * share:.0f} % of the ordinary")
    checks(share < 0.7, f"the peak with out=x is {100 * share:.0f} % of the ordinary one")
    return seen


def compare_gradients(options: argparse.Namespace, checks: Checks) -> None:
    """Print how far apart gradients are that should be the same.

    They are checked in float64: rounding in float32 tells leaky ReLU the wrong sign now and then,
    of numbers next to 0, and then gradients do differ.
    """
    data = digits(0)
    weights = make_weights(data.x_train.shape[1], options.units, options.layers)
    rows = []
    for one, other in ((Ordinary, Textbook), (Overwriting, Textbook), (RecomputedMask, StoredMask)):
        errors = []
        for dtype in (np.float64, np.float32):
            x, cast = data.x_train.astype(dtype), [weight.astype(dtype) for weight in weights]
            ours, theirs = (measure(kind, x, data.y_train, cast).gradients for kind in (one, other))
            pairs = zip(ours, theirs, strict=True)
            errors.append(max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs))
        rows.append((f"{one.name} / {other.name}", *(f"{error:.0e}" for error in errors)))
        failure = f"gradients of {one.name} and {other.name} differ by {errors[0]:.1e}"
        checks(errors[0] < 1e-9, failure)
    title = "Largest difference, as a share of the largest entry of a parameter's gradient"
    table(("gradients of", "float64", "float32"), rows, title=title)


def sweep(options: argparse.Namespace, checks: Checks) -> dict[type[Plain], dict[int, float]]:
    """Print and return the bytes of a layer for mini-batches of several sizes."""
    data = digits(0)
    x, labels = data.x_train, data.y_train
    weights = make_weights(x.shape[1], options.units, options.layers)
    sizes = (2, 8, 32, 128, 512, len(x))
    seen: dict[type[Plain], dict[int, float]] = {
        kind: {
            size: measure(kind, x[:size], labels[:size], weights).kept / options.layers
            for size in sizes
        }
        for kind in SWEPT
    }
    rows = [
        (size, *(f"{seen[kind][size] / (4 * options.units * size):.2f}" for kind in SWEPT))
        for size in sizes
    ]
    headers = ("B", *(kind.name for kind in SWEPT))
    table(headers, rows, title="Measured bytes of a layer, divided by those of an array of d B")
    share = seen[Overwriting][len(x)] / seen[Textbook][len(x)]
    checks(share < 0.6, f"a layer with out=x keeps {100 * share:.0f} % of the textbook's")
    return seen


def draw(
    measured: dict[type[Plain], Measured],
    swept: dict[type[Plain], dict[int, float]],
    options: argparse.Namespace,
) -> None:
    """Draw the memory of each kind of layer, over a step of training, and over batch sizes."""
    figure, (axes,) = new_figure(1, 3, width=11.5)
    samples = len(digits(0).x_train)
    names = [kind.name for kind in KINDS]
    books = [expected(kind, samples, options.units) / 1e6 for kind in KINDS]
    kept = [one.kept / options.layers / 1e6 for one in measured.values()]
    axes[0].barh(names, kept, color=PALETTE[5], label="measured")
    axes[0].plot(
        books, names, "|", color="black", markersize=18, markeredgewidth=2, label="formula"
    )
    axes[0].set(xlabel="Kept by a layer (MB)", title=f"d = {options.units}, B = {samples}")
    axes[0].set_ylim(len(KINDS) + 0.4, -0.6)
    axes[0].legend(loc="lower right", ncols=2, fontsize=8)
    for kind, colour in SWEPT.items():
        held = np.array(measured[kind].held) / 1e6
        line = {"color": colour, "label": kind.name, "linestyle": STYLES.get(kind, "-")}
        axes[1].plot(np.arange(1, len(held) + 1), held, **line)
        sizes = np.array(list(swept[kind]))
        lines = [expected(kind, int(size), options.units) / 1e3 for size in sizes]
        axes[2].plot(sizes, lines, color=colour, linewidth=1.0)
        points = np.array(list(swept[kind].values())) / 1e3
        axes[2].plot(sizes, points, "o", color=colour, markersize=4, label=kind.name)
    axes[1].axvline(options.layers, color="0.6", linewidth=1.0, linestyle=":")
    title = "One step: forward, then backward"
    axes[1].set(xlabel="Layers gone through", ylabel="Held (MB)", title=title)
    axes[1].legend(fontsize=8, loc="upper left")
    axes[1].set_ylim(0, 1.45 * axes[1].get_ylim()[1])
    title = "Lines: formula, points: measured"
    axes[2].set(xscale="log", yscale="log", xlabel="Batch size B", title=title)
    axes[2].set(ylabel="Kept by a layer (kB)")
    axes[2].legend(fontsize=8, loc="upper left")
    save(
        figure,
        options.out,
        "memory_kept",
        title="What layers keep for their backward pass",
        caption="Left: one array of d B float32 numbers or two, and a mask of bytes where it is "
        "stored. Centre: the dotted line is the turn from forward to backward;\ngradients of "
        "parameters are left out. Right: numbers a unit, whatever B is, outweigh arrays in small "
        "batches only.",
    )


def lecture(checks: Checks) -> None:
    """Measure, report and draw."""
    full = {"layers": 20, "units": 256}
    options = arguments("What layers keep for backward.", quick={"layers": 6}, full=full)
    measured = report(options, checks)
    compare_gradients(options, checks)
    draw(measured, sweep(options, checks), options)


if __name__ == "__main__":
    run(lecture)
