"""What follows from batch norm's formula alone, checked on real layers.

    python examples/lectures/algebra.py            # some seconds; a picture in lectures_output/
    python examples/lectures/algebra.py --quick    # the same with fewer timed rounds

A bias before it cancels, gamma and beta can undo it, the scale of the weights cancels, and at test
time it folds into them. docs/lectures/algebra.md has the derivations.
"""

from __future__ import annotations

import argparse
import copy
import time
from functools import partial
from typing import Any

import numpy as np
from lab import WITH, WITHOUT, Checks, Data, arguments, digits, new_figure, run, save, table
from networks import (
    Conv2d,
    Linear,
    Network,
    Relu,
    build_conv_network,
    build_network,
    glorot,
    train_epoch,
)
from optimisers import SGD
from tqdm import tqdm

import bnfast

UNITS = 100
EPS = 1e-5
ROUNDING = 1e-5  # float32 carries 6e-8 of a number; sums over a batch lose up to two digits


def size(a: Any) -> float:
    """Return the largest absolute value."""
    return float(np.abs(a).max())


def layer(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, dy: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return y = BN(x W^T + b), and the gradients of W and b where that of y is `dy`."""
    linear = Linear(weight, bias=bias is not None)
    linear.bias = bias
    y, ctx = bnfast.batch_norm(linear(x), eps=eps)
    linear.backward(bnfast.batch_norm_backward(dy, ctx).dx)
    return y, linear.dweight, linear.dbias


def report_cancellations(x: np.ndarray, checks: Checks) -> None:
    """Add a bias, scale the weights, and undo the norm: say what changes."""
    rng = np.random.default_rng(0)
    weight = glorot(rng, UNITS, x.shape[1])
    bias = rng.standard_normal(UNITS, np.float32)
    dy = rng.standard_normal((len(x), UNITS), np.float32)
    rows = []

    def must_vanish(what: str, changed: Any, of: Any) -> None:
        rows.append((what, f"{size(of):.2g}", f"{size(changed):.1e}"))
        checks(size(changed) < ROUNDING * size(of), f"{what}: off by {size(changed):.1e}")

    y, dweight, _ = layer(x, weight, None, dy, EPS)
    with_bias, _, dbias = layer(x, weight, bias, dy, EPS)
    must_vanish("y with b, against y without", with_bias - y, y)
    must_vanish("gradient of b, against dy summed", dbias, dy.sum(axis=0))

    for eps in (0.0, EPS):
        y, dweight, _ = layer(x, weight, None, dy, eps)
        scaled, dscaled, _ = layer(x, 100 * weight, None, dy, eps)
        if eps == 0:
            must_vanish("y with 100 W, against y, eps = 0", scaled - y, y)
            must_vanish(
                "100 x gradient of 100 W, against that of W", 100 * dscaled - dweight, dweight
            )
        else:  # as large as eps / (2 var): reported, no rounding
            rows.append(
                (
                    f"y with 100 W, against y, eps = {eps:g}",
                    f"{size(y):.2g}",
                    f"{size(scaled - y):.1e}",
                )
            )

    z = x @ weight.T
    moments = bnfast.moments(z)
    gamma, beta = np.sqrt(moments.var() + EPS), moments.mean
    undone, _ = bnfast.batch_norm(z, gamma, beta, eps=EPS)
    must_vanish("BN(z) with gamma = sqrt(var + eps), beta = mean, against z", undone - z, z)
    table(
        ("what", "largest value", "largest change"),
        rows,
        title="Identities, float32, a batch of 60 digits",
    )


def fold(network: Network) -> Network:
    """Return a network that computes at test time what `network` does, without batch norm."""
    layers: list[Any] = []
    for layer in network.layers:
        if not isinstance(layer, bnfast.BatchNorm):
            layers.append(copy.deepcopy(layer))
            continue
        linear = layers[-1].linear if isinstance(layers[-1], Conv2d) else layers[-1]
        running: Any = layer.running
        linear.weight, linear.bias = bnfast.fold_batch_norm(
            linear.weight,
            linear.bias,
            running.mean,
            running.var,
            layer.gamma,
            layer.beta,
            eps=layer.eps,
        )
    return Network(layers)


def report_folding(data: Data, options: argparse.Namespace, checks: Checks) -> None:
    """Train two networks for a while, fold their batch norms, compare answers and time."""
    rng = np.random.default_rng(0)
    norm = bnfast.BatchNorm
    networks = {
        "4 layers of 100 units": build_network(
            (64, *[UNITS] * 4, 10), rng=rng, norm=norm, activation=Relu
        ),
        "4 convolutions": build_conv_network((1, 16, 16, 32, 32), 10, rng=rng, norm=norm),
    }
    rows = []
    for name, network in networks.items():
        shape = (-1, 1, 8, 8) if "convolutions" in name else (-1, 64)
        x_train, x_test = data.x_train.reshape(shape), data.x_test.reshape(shape)
        for _ in range(2):
            train_epoch(network, SGD(0.1), x_train, data.y_train, batch_size=60, rng=rng)
        folded = fold(network)
        forward = {
            "as trained": partial(network.forward, x_test, training=False),
            "folded": partial(folded.forward, x_test, training=False),
        }
        logits = {kind: call() for kind, call in forward.items()}
        times: dict[str, list[float]] = {kind: [] for kind in forward}
        for _ in tqdm(range(options.rounds), desc=f"{name:22}", unit="round"):
            for kind, call in forward.items():  # in turn, so that what else goes on meets both
                began = time.perf_counter()
                call()
                times[kind].append(time.perf_counter() - began)
        change = size(logits["folded"] - logits["as trained"])
        same = np.mean(logits["folded"].argmax(axis=1) == logits["as trained"].argmax(axis=1))
        before, after = (1e3 * float(np.median(times[kind])) for kind in forward)
        cells = [name, f"{size(logits['as trained']):.3g}", f"{change:.1e}", f"{100 * same:.1f} %"]
        rows.append(
            [*cells, f"{before:.2f} ms", f"{after:.2f} ms", f"{100 * (1 - after / before):.0f} %"]
        )
        checks(
            change < 1e-4 * size(logits["as trained"]), f"folding changed {name} by {change:.1e}"
        )
    headers = ["network", "largest logit", "largest change", "same answer", "with BN", "folded"]
    table([*headers, "time saved"], rows, title=f"Folded for test time, {len(data.x_test)} digits")


def report_eps(x: np.ndarray, options: argparse.Namespace, checks: Checks) -> None:
    """Show what eps does to a pixel's spread, inside the root and outside, in other units too."""
    deviations = x.std(axis=0, dtype=np.float64)
    limits = (0, 1e-5, 1e-3, 1e-2, 1e-1, 1)
    rows = []
    spread = {
        place: bnfast.batch_norm(x, eps=EPS, eps_placement=place)[0].std(axis=0, dtype=np.float64)
        for place in ("var", "std")
    }
    constant = deviations == 0
    for low, high in zip((None, *limits), limits, strict=False):
        there = constant if low is None else (deviations > low) & (deviations <= high)
        if there.any():
            name = "0" if low is None else f"{low:g} to {high:g}"
            rows.append(
                (name, int(there.sum()), *(f"{spread[k][there].mean():.4f}" for k in spread))
            )
    title = f"Spread of a normalised pixel, eps = {EPS:g}; all digits"
    table(
        ("spread of the pixel (1 = white)", "pixels", "sqrt(var + eps)", "sqrt(var) + eps"),
        rows,
        title=title,
    )

    figure, axes = new_figure(1, 1, width=6.5, height=4)
    scales = np.logspace(-7, 0, 36)
    pixel = x[:, [int(np.argsort(deviations)[len(deviations) // 2])]].astype(np.float64)
    for place, colour, label in (
        ("var", WITH, "gamma / sqrt(var + eps)"),
        ("std", WITHOUT, "gamma / (sqrt(var) + eps)"),
    ):
        seen = [bnfast.batch_norm(s * pixel, eps=EPS, eps_placement=place)[0].std() for s in scales]
        std = scales * pixel.std()
        formula = std / (np.sqrt(std**2 + EPS) if place == "var" else std + EPS)
        checks(bool(np.allclose(seen, formula, rtol=1e-6)), f"eps of placement {place}")
        axes[0, 0].plot(std, formula, color=colour, label=label)
        axes[0, 0].plot(std, seen, "o", color=colour, markersize=3)
    for std, text in ((np.sqrt(EPS), "sqrt(eps)"), (EPS, "eps")):
        axes[0, 0].axvline(std, color="0.6", linewidth=0.8, linestyle=":")
        axes[0, 0].annotate(text, (std, 1.03), color="0.4", fontsize=8.5, ha="center")
    axes[0, 0].set(
        xscale="log",
        xlabel="Standard deviation of the input (1 = white)",
        ylabel="Standard deviation of the output",
    )
    axes[0, 0].legend(loc="center", fontsize=8.5)
    save(
        figure,
        options.out,
        "algebra_eps",
        title=f"Where eps = {EPS:g} matters",
        caption="Lines: the formulas. Points: a pixel of the digits, in ever smaller units.",
    )


def lecture(checks: Checks) -> None:
    """Show each identity in turn."""
    full, quick = {"rounds": 100}, {"rounds": 10}
    options = arguments("The algebra of batch norm.", quick=quick, full=full)
    data = digits(0)
    report_cancellations(data.x_train[:60], checks)
    report_folding(data, options, checks)
    report_eps(np.concatenate([data.x_train, data.x_test]), options, checks)


if __name__ == "__main__":
    run(lecture)
