"""Distributions that shift: inside a network while it learns, and in the data it is shown later.

    python examples/lectures/shift.py            # a minute; pictures in lectures_output/
    python examples/lectures/shift.py --quick    # a few seconds

Trains sigmoid networks with and without batch norm, and records what enters each layer, how many
units are saturated, and the size of each layer's gradient. Then trains on digits as they are and
tests on rotated, dimmed and blurred ones: with the running statistics, with the statistics of the
test batches, and with statistics that were estimated anew. docs/lectures/shift.md says what came
out.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from lab import (
    PALETTE,
    WITH,
    WITHOUT,
    Checks,
    Data,
    arguments,
    digits,
    mean_spread,
    new_figure,
    percent,
    plot_band,
    run,
    save,
    table,
)
from networks import (
    Linear,
    Network,
    Relu,
    batches,
    build_network,
    evaluate,
    reestimated,
    train_epoch,
    train_step,
)
from optimisers import SGD
from scipy.ndimage import gaussian_filter, rotate
from tqdm import tqdm

import bnfast

BATCH_SIZE = 60  # samples
SIZES = (64, 100, 100, 100, 100, 10)  # four hidden layers
HIDDEN = len(SIZES) - 2
RATE = 3.0  # learning rate at which the network learns with and, late, without batch norm
SATURATED = 4.0  # |z| beyond which the sigmoid's slope is below 7 % of its largest
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NORMS = {"without": None, "with": bnfast.BatchNorm}
COLOURS = {"without": WITHOUT, "with": WITH}


@dataclass
class Inside:
    """What was seen inside a network at some steps; arrays of one entry a hidden layer."""

    epochs: list[float] = field(default_factory=list)
    quantiles: list[np.ndarray] = field(default_factory=list)  # of z, (layer, quantile)
    saturated: list[list[float]] = field(default_factory=list)  # fraction of units times samples
    gradients: list[list[float]] = field(default_factory=list)  # l2 norm of dW of each layer
    accuracy: float = 0.0  # on test data at the end

    def record(self, epoch: float, network: Network) -> None:
        """Look at the mini-batch that the network saw last."""
        seen = network.preactivations()
        self.epochs.append(epoch)
        self.quantiles.append(np.array([np.quantile(z, QUANTILES) for z in seen]))
        self.saturated.append([float(np.mean(np.abs(z) > SATURATED)) for z in seen])
        weights = network.of_type(Linear)[:HIDDEN]
        self.gradients.append([float(np.linalg.norm(linear.dweight)) for linear in weights])


def look_inside(kind: str, seed: int, epochs: int, every: int) -> Inside:
    """Train one network, and record what happens in it at every so many steps."""
    data, rng = digits(seed), np.random.default_rng(seed)
    network = build_network(SIZES, rng=np.random.default_rng(seed), norm=NORMS[kind])
    optimiser, inside = SGD(RATE), Inside()
    steps = len(data.x_train) // BATCH_SIZE
    for epoch in range(epochs):
        for step, batch in enumerate(batches(len(data.x_train), BATCH_SIZE, rng)):
            train_step(network, optimiser, data.x_train[batch], data.y_train[batch])
            if (epoch * steps + step) % every == 0:
                inside.record(epoch + step / steps, network)
    inside.accuracy = evaluate(network, data.x_test, data.y_test)[1]
    return inside


def drift(inside: Inside) -> np.ndarray:
    """Return how far each layer's median moves between two looks, in quartile ranges."""
    quantiles = np.array(inside.quantiles)  # (look, layer, quantile)
    spread = quantiles[:-1, :, 3] - quantiles[:-1, :, 1]
    return np.mean(np.abs(np.diff(quantiles[:, :, 2], axis=0)) / np.maximum(spread, 1e-6), axis=0)


def report_inside(options: argparse.Namespace, checks: Checks) -> None:
    """Print and draw what happens inside."""
    seen: dict[str, list[Inside]] = {kind: [] for kind in NORMS}
    cases = [(seed, kind) for seed in range(options.seeds) for kind in NORMS]
    for seed, kind in tqdm(cases, desc="inside networks", unit="network"):
        seen[kind].append(look_inside(kind, seed, options.epochs, options.every))
    rows = []
    for kind, runs in seen.items():
        saturated = np.array([one.saturated for one in runs])  # (seed, look, layer)
        gradients = np.array([one.gradients for one in runs])
        first = gradients[:, 0].mean(axis=0)
        for layer in range(HIDDEN):
            rows.append(
                [
                    kind,
                    layer + 1,
                    percent(saturated[:, :, layer].mean(axis=1)),
                    f"{100 * saturated[:, :, layer].max():.0f} %",
                    mean_spread([drift(one)[layer] for one in runs], 2),
                    f"{first[layer]:.1e}",
                    f"{np.median(gradients[:, :, layer]):.1e}",
                ]
            )
        print(f"\n{kind} batch norm: test accuracy {percent([one.accuracy for one in runs])}")
        if kind == "with":
            checks(saturated.mean() < 0.2, "units with batch norm are saturated")
            ratio = first[0] / first[-1]
            checks(bool(0.05 < ratio < 20), f"gradients with batch norm differ by {ratio:.1e}")
    headers = ["batch norm", "layer", "saturated, mean", "at most", "drift", "first gradient"]
    title = f"SGD at rate {RATE:g}, {options.epochs} epochs, {options.seeds} seeds"
    table([*headers, "median gradient"], rows, title=title)
    draw_bands(seen, options)
    draw_saturation(seen, options)


def draw_bands(seen: dict[str, list[Inside]], options: argparse.Namespace) -> None:
    """Draw the quantiles of z over training, a row for each layer, for the first seed."""
    figure, axes = new_figure(HIDDEN, 2, height=7.2, sharex=True, sharey="row")
    for column, kind in enumerate(NORMS):
        inside = seen[kind][0]
        quantiles = np.array(inside.quantiles)
        for layer in range(HIDDEN):
            axis, band = axes[layer, column], quantiles[:, layer]
            for low, high, alpha in ((0, 4, 0.18), (1, 3, 0.35)):
                axis.fill_between(
                    inside.epochs,
                    band[:, low],
                    band[:, high],
                    alpha=alpha,
                    color=COLOURS[kind],
                    lw=0,
                )
            axis.plot(inside.epochs, band[:, 2], color=COLOURS[kind], linewidth=1.5)
            for border in (-SATURATED, SATURATED):
                axis.axhline(border, color="0.5", linewidth=0.8, linestyle=":")
            axes[layer, 0].set_ylabel(f"z of layer {layer + 1}")
        axes[0, column].set_title(
            f"{kind} batch norm, {100 * inside.accuracy:.1f} % right at the end"
        )
        axes[-1, column].set_xlabel("Epoch")
    save(
        figure,
        options.out,
        "shift_bands",
        title="What enters the sigmoids of each layer",
        caption="Median, middle 50 % and 90 % over a mini-batch's units and samples; first seed.\n"
        f"Dotted: |z| = {SATURATED:g}, beyond which the slope is below 7 % of its largest.",
    )


def draw_saturation(seen: dict[str, list[Inside]], options: argparse.Namespace) -> None:
    """Draw saturated shares (top) and norms of gradients (bottom) of each layer."""
    figure, axes = new_figure(2, 2, height=6, sharex=True, sharey="row")
    for column, (kind, runs) in enumerate(seen.items()):
        for layer in range(HIDDEN):
            label, colour = f"layer {layer + 1}", PALETTE[layer]
            shares = 100 * np.array([one.saturated for one in runs])[:, :, layer]
            norms = np.array([one.gradients for one in runs])[:, :, layer]
            plot_band(axes[0, column], runs[0].epochs, shares, colour, label)
            plot_band(axes[1, column], runs[0].epochs, np.maximum(norms, 1e-9), colour, label)
        axes[0, column].set_title(f"{kind} batch norm")
        axes[1, column].set(xlabel="Epoch", yscale="log")
    axes[0, 0].set_ylabel("Saturated (%)")
    axes[1, 0].set_ylabel("l2 norm of the gradient of W")
    axes[0, 1].legend(fontsize=8)
    save(
        figure,
        options.out,
        "shift_saturation",
        title="Saturated units, and the gradient of each layer",
        caption=f"Lines: means of {len(runs)} seeds; bands: from the lowest to the highest. "
        f"Saturated: |z| > {SATURATED:g}.",
    )


Shift: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def turned(angle: float) -> Shift:
    """Return a function that rotates images by `angle` degrees; what comes in is as the border."""

    def turn(images: np.ndarray, _: np.random.Generator) -> np.ndarray:
        return rotate(images, angle, axes=(1, 2), reshape=False, order=1, mode="nearest")

    return turn


# Each takes images in [0, 1] of shape (samples, 8, 8).
SHIFTS: dict[str, Shift] = {
    "none": lambda images, _: images,
    "rotated by 10 degrees": turned(10),
    "rotated by 20 degrees": turned(20),
    "rotated by 30 degrees": turned(30),
    "contrast halved": lambda images, _: 0.5 * images,
    "brighter by a quarter": lambda images, _: images + 0.25,
    "blurred, sigma 1 pixel": lambda images, _: gaussian_filter(images, (0, 1, 1)),
    "noise of spread 0.3": lambda images, rng: images + rng.normal(0.0, 0.3, images.shape),
}


def batch_accuracy(network: Network, x: np.ndarray, labels: np.ndarray, batch_size: int) -> float:
    """Return the accuracy where each batch of the test data is normalised by its own statistics."""
    network = copy.deepcopy(network)  # its running statistics are to stay as they are
    right: list[np.ndarray] = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        right.append(network.forward(x[part], training=True).argmax(axis=1) == labels[part])
    return float(np.mean(np.concatenate(right)))


def answers(
    network: Network, plain: Network, data: Data, grey: float, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Return the accuracy on each shift, for each way to normalise."""
    seen: dict[str, dict[str, float]] = {}
    images = (data.x_test + grey).reshape(-1, 8, 8)
    for name, shift in SHIFTS.items():
        x = (shift(images, rng).astype(np.float32) - np.float32(grey)).reshape(-1, 64)
        # Half of the shifted samples, without their labels, are there to be measured.
        known, new, labels = x[::2], x[1::2], data.y_test[1::2]
        seen[name] = {
            "no batch norm": evaluate(plain, new, labels)[1],
            "running": evaluate(network, new, labels)[1],
            "batches of 60": batch_accuracy(network, new, labels, 60),
            "batches of 10": batch_accuracy(network, new, labels, 10),
            "estimated anew": evaluate(reestimated(network, known), new, labels)[1],
        }
    return seen


def report_shifted_data(options: argparse.Namespace, checks: Checks) -> None:
    """Train on digits as they are, test on others; print and draw."""
    runs: list[dict[str, dict[str, float]]] = []
    for seed in tqdm(range(options.data_seeds), desc="shifted data", unit="seed"):
        data = digits(seed, test_size=0.4)
        grey = float(-min(data.x_train.min(), data.x_test.min()))  # what centring took away
        trained = []
        for norm in (bnfast.BatchNorm, None):
            rng = np.random.default_rng(seed)
            network = build_network((64, 100, 100, 10), rng=rng, norm=norm, activation=Relu)
            for _ in range(options.data_epochs):
                train_epoch(
                    network, SGD(0.1), data.x_train, data.y_train, batch_size=BATCH_SIZE, rng=rng
                )
            trained.append(network)
        runs.append(answers(trained[0], trained[1], data, grey, rng))
    ways = list(runs[0]["none"])
    seen: dict[str, dict[str, Any]] = {
        shift: {way: np.array([run[shift][way] for run in runs]) for way in ways}
        for shift in SHIFTS
    }
    rows = [[shift, *(percent(seen[shift][way]) for way in ways)] for shift in SHIFTS]
    title = f"Test accuracy on shifted digits, {options.data_seeds} seeds"
    table(["shift of the test data", *ways], rows, title=title)
    brighter = seen["brighter by a quarter"]
    gain = (brighter["estimated anew"] - brighter["running"]).mean()
    checks(bool(gain > 0.02), f"new statistics gain {100 * gain:.1f} % on brighter digits")
    figure, axes = new_figure(1, 1, height=4.6)
    for index, way in enumerate(ways):
        places = np.arange(len(SHIFTS)) + 0.16 * (index - 2)
        means = [100 * seen[shift][way].mean() for shift in SHIFTS]
        spread = [100 * seen[shift][way].std(ddof=1) for shift in SHIFTS]
        axes[0, 0].bar(
            places, means, 0.15, yerr=spread, color=PALETTE[index], label=way, ecolor="0.3"
        )
    labels = [shift.replace(" ", "\n", 1) for shift in SHIFTS]
    axes[0, 0].set_xticks(np.arange(len(SHIFTS)), labels, fontsize=8)
    axes[0, 0].set(ylabel="Test accuracy (%)", ylim=(0, 112))
    axes[0, 0].legend(ncols=5, loc="upper center", fontsize=8)
    save(
        figure,
        options.out,
        "shift_data",
        title="Trained on digits as they are, tested on shifted ones",
        caption="By which statistics batch norm normalises at test time; bars: mean and standard "
        "deviation over the seeds.",
    )


def lecture(checks: Checks) -> None:
    """Look at both kinds of shift."""
    full = {"seeds": 5, "epochs": 30, "every": 10, "data_seeds": 10, "data_epochs": 20}
    quick = {"seeds": 1, "epochs": 4, "data_seeds": 2, "data_epochs": 5}
    options = arguments("Covariate shift, inside and outside.", quick=quick, full=full)
    report_inside(options, checks)
    report_shifted_data(options, checks)


if __name__ == "__main__":
    run(lecture)
