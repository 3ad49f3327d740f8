"""Networks with batch norm in plain NumPy, trained by four optimisers over a grid of rates.

    python examples/lectures/training.py            # three minutes; pictures in lectures_output/
    python examples/lectures/training.py --quick    # a few seconds

Checks the gradients of whole networks, then trains a network of sigmoid layers with and without
batch norm at every learning rate, then a convolutional one with the norm before or behind ReLU.
docs/lectures/training.md says what the pictures show.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial

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
    split,
    table,
)
from networks import (
    Network,
    Optimiser,
    Relu,
    build_conv_network,
    build_network,
    evaluate,
    gradient_errors,
    train_epoch,
)
from optimisers import OPTIMISERS, SGD, Momentum
from sklearn.datasets import load_breast_cancer, load_wine
from tqdm import tqdm

from bnfast import BatchNorm

BATCH_SIZE = 60  # samples
SIZES = (64, 100, 100, 100, 100, 10)  # features at each step: four hidden layers
CHANNELS = (1, 16, 16, 32, 32)
NORMS = {"without": None, "with": BatchNorm}
COLOURS = {"without": WITHOUT, "with": WITH}
RATES = {  # a grid of factors of about 3 around what is usual for each
    "SGD": (0.03, 0.1, 0.3, 1, 3, 10, 30),
    "momentum": (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
    "RMSprop": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "Adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}
TARGET = 0.9  # test accuracy that a good rate reaches
Curves = tuple[list[float], list[float]]  # training loss and test accuracy after each epoch


def check_gradients(data: Data, checks: Checks) -> None:
    """Compare the gradients of four whole networks with differences of the loss, in float64."""
    norm = partial(BatchNorm, dtype=np.float64)
    conv = partial(build_conv_network, (1, 3, 4), 10, norm=norm, dtype=np.float64)
    build = partial(build_network, (64, 20, 20, 10), norm=norm, dtype=np.float64)
    networks: dict[str, Callable[..., Network]] = {
        "BN, sigmoid": build,
        "BN, ReLU": partial(build, activation=Relu),
        "convolution, BN, ReLU": conv,
        "convolution, ReLU, BN": partial(conv, norm_first=False),
    }
    rows = []
    for name, make in networks.items():
        network = make(rng=np.random.default_rng(0))
        shape = (-1, 1, 8, 8) if "convolution" in name else (-1, 64)
        x = data.x_train[:12].astype(np.float64).reshape(shape)
        for kind, errors in gradient_errors(network, x, data.y_train[:12]).items():
            rows.append((name, kind, len(errors), f"{np.max(errors):.0e}"))
            # A convolution with ReLU may have a kink within the step of a difference.
            holds = np.median(errors) < 1e-7 and np.max(errors) < 1e-4
            checks(bool(holds), f"a gradient of {kind} in {name} is wrong by {np.max(errors):.1e}")
    title = "Gradients against central differences of the loss, relative errors in float64"
    table(("network", "layers", "entries", "largest error"), rows, title=title)


def train(
    network: Network,
    optimiser: Optimiser,
    data: Data,
    epochs: int,
    seed: int,
    batch_size: int = BATCH_SIZE,
) -> Curves:
    """Train, and return the curves. A network whose numbers overflow has learnt nothing."""
    rng = np.random.default_rng(seed)
    losses, accuracies = [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(epochs):
            losses.append(
                train_epoch(
                    network, optimiser, data.x_train, data.y_train, batch_size=batch_size, rng=rng
                )
            )
            accuracies.append(evaluate(network, data.x_test, data.y_test)[1])
    return losses, accuracies


def search(options: argparse.Namespace) -> dict[tuple[str, str, float], list[Curves]]:
    """Train every optimiser at every rate, without and with batch norm, from every seed."""
    rates = {name: grid[1::2] if options.quick else grid for name, grid in RATES.items()}
    cases = [(name, kind, rate) for name in rates for rate in rates[name] for kind in NORMS]
    seen: dict[tuple[str, str, float], list[Curves]] = {case: [] for case in cases}
    for seed in range(options.seeds):
        data = digits(seed)
        for name, kind, rate in tqdm(cases, desc=f"optimisers, seed {seed}", unit="network"):
            network = build_network(SIZES, rng=np.random.default_rng(seed), norm=NORMS[kind])
            optimiser = OPTIMISERS[name](rate)
            seen[name, kind, rate].append(train(network, optimiser, data, options.epochs, seed))
    return seen


def final(curves: list[Curves]) -> np.ndarray:
    """Return the test accuracy after the last epoch, for each seed."""
    return np.array([accuracies[-1] for _, accuracies in curves])


def report_search(options: argparse.Namespace, checks: Checks) -> None:
    """Print the best rate of each optimiser; draw accuracy over rates, and learning curves."""
    seen = search(options)
    rows = []
    by_rate, rate_axes = new_figure(1, 4, sharey=True, height=3.6)
    over_time, time_axes = new_figure(1, 4, sharey=True, height=3.6)
    for column, name in enumerate(OPTIMISERS):
        for kind in NORMS:
            rates = [rate for other, k, rate in seen if (other, k) == (name, kind)]
            accuracies = {rate: final(seen[name, kind, rate]) for rate in rates}
            best = max(rates, key=lambda rate: accuracies[rate].mean())
            good = [rate for rate in rates if accuracies[rate].mean() >= TARGET]
            losses = np.array([loss for loss, _ in seen[name, kind, best]])
            good_rates = f"{good[0]:g} to {good[-1]:g}" if good else "none"
            cells = [name, kind, f"{best:g}", percent(accuracies[best])]
            cells += [mean_spread(losses[:, -1], 4), f"{len(good)} of {len(rates)}", good_rates]
            rows.append(cells)
            shown, label = 100 * np.array(list(accuracies.values())).T, f"{kind} batch norm"
            plot_band(rate_axes[0, column], rates, shown, COLOURS[kind], label)
            epochs = np.arange(1, losses.shape[1] + 1)
            label = f"{kind}, rate {best:g}"
            plot_band(time_axes[0, column], epochs, losses, COLOURS[kind], label)
            if kind == "with":
                lowest = accuracies[best].min()
                failure = f"{name} with batch norm reaches {100 * lowest:.1f} % only"
                checks(bool(lowest > TARGET), failure)
        rate_axes[0, column].set(xscale="log", title=name, xlabel="Learning rate")
        time_axes[0, column].set(yscale="log", title=name, xlabel="Epoch")
        time_axes[0, column].legend(fontsize=8)
    headers = ["optimiser", "batch norm", "best rate", "test accuracy", "training loss"]
    headers += [f"rates to {100 * TARGET:.0f} %", "from, to"]
    title = f"After {options.epochs} epochs, mean ± spread over {options.seeds} seeds"
    table(headers, rows, title=title)
    rate_axes[0, 0].set(ylabel="Test accuracy (%)", ylim=(0, 102))
    rate_axes[0, 0].legend(fontsize=8)
    time_axes[0, 0].set(ylabel="Training loss (nats)")
    save(
        by_rate,
        options.out,
        "training_rates",
        title="Which learning rates work",
        caption=f"Digits, four layers of 100 sigmoid units, after {options.epochs} epochs. "
        "Lines: means of the seeds; bands: from the lowest to the highest.",
    )
    save(
        over_time,
        options.out,
        "training_curves",
        title="Training loss, each at its best rate",
        caption="The mean loss of the epoch's mini-batches. The best rate is the one with the "
        "highest test accuracy after the last epoch.",
    )


def report_convolution(options: argparse.Namespace, checks: Checks) -> None:
    """Train the convolutional network without norm, with it before, and with it behind ReLU."""
    kinds = {
        "convolution, ReLU": partial(build_conv_network, CHANNELS, 10),
        "convolution, BN, ReLU": partial(build_conv_network, CHANNELS, 10, norm=BatchNorm),
        "convolution, ReLU, BN": partial(
            build_conv_network, CHANNELS, 10, norm=BatchNorm, norm_first=False
        ),
    }
    seen: dict[str, list[Curves]] = {kind: [] for kind in kinds}
    for seed in tqdm(range(options.seeds), desc="convolutions", unit="seed"):
        data = digits(seed, images=True)
        for kind, make in kinds.items():
            network = make(rng=np.random.default_rng(seed))
            optimiser = Momentum(options.conv_rate)
            seen[kind].append(train(network, optimiser, data, options.conv_epochs, seed))
    figure, axes = new_figure(1, 2, height=3.8)
    rows = []
    for (kind, curves), colour in zip(seen.items(), (WITHOUT, WITH, PALETTE[2]), strict=True):
        losses, accuracies = (np.array(values) for values in zip(*curves, strict=True))
        first = [percent(accuracies[:, epoch]) for epoch in (0, min(2, len(losses[0]) - 1))]
        rows.append((kind, *first, percent(accuracies[:, -1]), mean_spread(losses[:, -1], 4)))
        epochs = np.arange(1, losses.shape[1] + 1)
        plot_band(axes[0, 0], epochs, losses, colour, kind)
        plot_band(axes[0, 1], epochs, 100 * accuracies, colour, kind)
        if "BN" in kind:
            lowest = accuracies[:, -1].min()
            checks(bool(lowest > 0.8), f"{kind} reaches {100 * lowest:.1f} % only")
    title = f"Momentum at rate {options.conv_rate:g}, {options.conv_epochs} epochs"
    headers = ("network", "after epoch 1", "after epoch 3", "at the end", "training loss")
    table(headers, rows, title=title)
    axes[0, 0].set(xlabel="Epoch", ylabel="Training loss (nats)", yscale="log")
    axes[0, 1].set(xlabel="Epoch", ylabel="Test accuracy (%)", ylim=(0, 102))
    axes[0, 1].legend()
    save(
        figure,
        options.out,
        "training_convolution",
        title="Four convolutions: where the norm stands",
        caption="Digits as images, 16, 16, 32 and 32 channels. Lines: means of the seeds; "
        "bands: from the lowest to the highest.",
    )


def report_units(options: argparse.Namespace, checks: Checks) -> None:
    """Train on measurements in their own units, whose sizes differ by three to five decades."""
    ways = ("no BN", "BN behind each layer", "BN in front, too")
    rows = []
    for name, load in (("wine", load_wine), ("breast cancer", load_breast_cancer)):
        seen: dict[tuple[str, str], list[float]] = {}
        for seed in range(options.unit_seeds):
            x, labels = load(return_X_y=True)
            data = split(x, labels, seed)
            mean, std = data.x_train.mean(axis=0), data.x_train.std(axis=0)
            standardised = replace(
                data, x_train=(data.x_train - mean) / std, x_test=(data.x_test - mean) / std
            )
            for units, given in (("as measured", data), ("standardised", standardised)):
                for way in ways:
                    rng, norm = np.random.default_rng(seed), None if way == ways[0] else BatchNorm
                    network = build_network((len(std), 30, 30, 3), rng=rng, norm=norm)
                    if way == ways[2]:
                        network.layers.insert(0, BatchNorm(len(std)))
                    _, accuracies = train(network, SGD(0.3), given, options.epochs, seed, 20)
                    seen.setdefault((units, way), []).append(accuracies[-1])
        spreads = f"{std.min():.1g} to {std.max():.1g}"
        for units in ("as measured", "standardised"):
            rows.append((name, units, spreads, *(percent(seen[units, way]) for way in ways)))
            spreads = "1"
        mean_accuracy = np.mean(seen["as measured", ways[2]])
        failure = f"with batch norm in front only {100 * mean_accuracy:.1f} % of {name} are right"
        checks(bool(mean_accuracy > 0.85), failure)
    title = f"Other sets: test accuracy after {options.epochs} epochs, {options.unit_seeds} seeds"
    table(("set", "units", "spreads of features", *ways), rows, title=title)


def lecture(checks: Checks) -> None:
    """Check gradients, then train."""
    full = {"seeds": 3, "epochs": 30, "conv_epochs": 10, "conv_rate": 0.05, "unit_seeds": 10}
    quick = {"seeds": 1, "epochs": 8, "conv_epochs": 3, "unit_seeds": 2}
    options = arguments("Networks with batch norm, four optimisers.", quick=quick, full=full)
    check_gradients(digits(0), checks)
    report_search(options, checks)
    report_convolution(options, checks)
    report_units(options, checks)


if __name__ == "__main__":
    run(lecture)
