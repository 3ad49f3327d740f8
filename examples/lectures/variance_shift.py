"""Dropout before, between and behind batch norm: the part of dropout.py on variance shift.

Batch norm gathers variances in training, while dropout adds to them, and divides by them at test,
when nothing is dropped any more (Li et al. 2019).
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import numpy as np
from lab import PALETTE, Checks, digits, mean_spread, new_figure, percent, save, table
from networks import Linear, Network, Relu, evaluate, glorot, he, reestimated, train_epoch
from optimisers import Momentum
from tqdm import tqdm

import bnfast

# What one hidden layer is made of. Only in the last does no dropout come before any batch norm.
ORDERS = {
    "no dropout": "linear, norm, ReLU",
    "before": "linear, dropout, norm, ReLU",
    "between": "linear, norm, ReLU, dropout",
    "behind the last": "linear, norm, ReLU; dropout in the last layer only",
}
UNITS = 100
BATCH_SIZE = 60  # samples
LEARNING_RATE = 0.02


def build(order: str, rate: float, depth: int, rng: np.random.Generator) -> Network:
    """Build `depth` hidden layers in one of ORDERS."""
    layers: list[Any] = []
    for level in range(depth):
        linear = Linear(he(rng, UNITS, UNITS if level else 64), bias=False)
        norm, drop = bnfast.BatchNorm(UNITS), bnfast.Dropout(rate, rng=rng)
        if order == "before":
            layers += [linear, drop, norm, Relu()]
        elif order == "between" or (order == "behind the last" and level == depth - 1):
            layers += [linear, norm, Relu(), drop]
        else:
            layers += [linear, norm, Relu()]
    return Network([*layers, Linear(glorot(rng, 10, UNITS), bias=True)])


def variance_ratios(network: Network, x: np.ndarray, rate: float) -> list[np.ndarray]:
    """Return, for each batch norm, its ratios of variances unit by unit: measured, and by formula.

    Measured is the running variance over that of the same units at test. By formula, with the
    independent entries of an inverted mask, which have mean 1 and variance rate / keep,
    u = drop(z):    Var u = Var z + rate / keep E z^2                 (Li et al. 2019)
    u = W drop(a):  Var u = Var (W a) + rate / keep sum_i W_i^2 E a_i^2
    with the mean and variance of z and a that the layer meets at test.
    """
    ratios = []
    noise: Any = 0.0  # what dropout would add to the variance of this layer's output, a unit
    for layer in network.layers:
        if hasattr(layer, "train"):
            layer.train(False)
        if isinstance(layer, bnfast.BatchNorm) and layer.running is not None:
            variance = x.var(axis=0)
            seen = variance > 1e-6  # units that are always 0 have no ratio
            ratios.append(np.stack([layer.running.var, variance + noise])[:, seen] / variance[seen])
            noise = 0.0
        elif isinstance(layer, bnfast.Dropout):
            noise = rate / (1 - rate) * np.mean(x**2, axis=0)
        elif isinstance(layer, Linear):
            noise = layer.weight**2 @ noise if np.ndim(noise) else 0.0
        x = layer(x)
    return ratios


def train_order(order: str, rate: float, depth: int, seed: int, epochs: int) -> dict[str, Any]:
    """Train one network; return ratios of variances and accuracies."""
    data, rng = digits(seed), np.random.default_rng(seed)
    network, optimiser = build(order, rate, depth, rng), Momentum(LEARNING_RATE)
    for _ in range(epochs):
        train_epoch(network, optimiser, data.x_train, data.y_train, batch_size=BATCH_SIZE, rng=rng)
    # On a copy, as a forward pass in training moves running statistics.
    logits = copy.deepcopy(network).forward(data.x_train, training=True)
    dropped = logits.argmax(axis=1) == data.y_train
    results = {
        "ratios": variance_ratios(network, data.x_train, rate),
        "test": evaluate(network, data.x_test, data.y_test)[1],
        "dropping": float(dropped.mean()),
    }
    for drop in network.of_type(bnfast.Dropout):
        drop.rate = 0.0
    cured = reestimated(network, data.x_train)  # statistics of what the layers meet at test
    return {**results, "cured": evaluate(cured, data.x_test, data.y_test)[1]}


def compare_orders(checks: Checks, options: argparse.Namespace) -> None:
    """Train each order at several depths and rates; print accuracies and ratios."""
    settings = [
        (depth, rate, order)
        for depth, rate in ((3, 0.2), (3, 0.5), (8, 0.2), (8, 0.35), (8, 0.5))
        for order in ORDERS
        if order != "no dropout" or rate == 0.2  # once a depth is enough
    ]
    results = {}
    for depth, rate, order in tqdm(settings, desc="dropout and batch norm", unit="setting"):
        rate = 0.0 if order == "no dropout" else rate
        results[depth, rate, order] = [
            train_order(order, rate, depth, seed, options.epochs) for seed in range(options.seeds)
        ]
    rows = []
    for (depth, rate, order), runs in results.items():
        medians = np.array([[np.median(layer, axis=1) for layer in one["ratios"]] for one in runs])
        first = 1 if order == "between" else 0  # the first batch norm that dropout comes before
        rows.append(
            [depth, rate, order]
            + [mean_spread(medians[:, first, column], 2) for column in (0, 1)]
            + [mean_spread(medians[:, -1, 0], 2 if medians[:, -1, 0].max() < 10 else 0)]
            + [percent([one[name] for one in runs]) for name in ("dropping", "test", "cured")]
        )
        if order in ("before", "between") and depth == 3:
            agreement = medians[:, first, 0].mean() / medians[:, first, 1].mean()
            checks(
                0.7 < agreement < 1.4,
                f"variance grew by {agreement:.2f} of the formula, rate {rate}, dropout {order}",
            )
    headers = ["hidden layers", "rate", "dropout", "first ratio", "formula", "last ratio"]
    headers += ["training, dropping", "test", "test, re-estimated"]
    title = "Running variance / variance at test (median unit), and accuracy"
    table(headers, rows, title=f"{title}; seeds: {options.seeds}")
    for depth, order in ((3, "behind the last"), (8, "behind the last")):
        accuracy = np.mean([one["test"] for one in results[depth, 0.5, order]])
        checks(accuracy > (0.3 if options.quick else 0.9), f"dropout {order} reaches {accuracy}")
    draw_ratios(results, options)


def draw_ratios(
    results: dict[tuple[int, float, str], list[dict[str, Any]]], options: argparse.Namespace
) -> None:
    """Draw the measured ratio of each unit against the formula's, and the ratios layer by layer."""
    figure, axes = new_figure(1, 3, width=11.5, height=4.4)
    for axis, order in zip(axes[0], ("before", "between"), strict=False):
        layers = results[3, 0.5, order][0]["ratios"]
        for level, (measured, formula) in enumerate(layers):
            axis.plot(formula, measured, ".", color=PALETTE[level], label=f"layer {level + 1}")
        limits = [0.9, 1.1 * max(formula.max() for _, formula in layers)]
        axis.plot(limits, limits, color="0.4", linewidth=1, label="formula")
        axis.set(
            xlabel="ratio by the formula",
            ylabel="running variance / variance at test",
            title=f"each unit, dropout {order}",
        )
        axis.legend()
    for colour, (order, rate) in zip(
        PALETTE,
        [(order, rate) for rate in (0.5, 0.35, 0.2) for order in ("before", "between")],
        strict=False,
    ):
        runs = results[8, rate, order]
        medians = np.array([[np.median(layer[0]) for layer in one["ratios"]] for one in runs])
        axes[0, 2].plot(
            range(1, 9), np.median(medians, axis=0), "o-", color=colour, label=f"{order}, {rate}"
        )
    axes[0, 2].set(yscale="log", xlabel="hidden layer", title="8 hidden layers, median unit")
    axes[0, 2].yaxis.set_major_formatter("{x:g}")
    axes[0, 2].legend()
    save(
        figure,
        options.out,
        "dropout_variance_shift",
        title="What batch norm divides by at test is larger than the variance that it meets there",
        caption="Left and middle: rate 0.5, three hidden layers, one seed; the formula is about "
        "the dropout right before a layer;\ndeeper layers, whose inputs have shifted too, may "
        f"lie off it. Right: medians of {options.seeds} seeds.",
    )
