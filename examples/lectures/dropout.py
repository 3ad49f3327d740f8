"""What dropout does: to the mean and variance of z, to overfitting, and in front of batch norm.

    python examples/lectures/dropout.py            # two minutes; pictures in lectures_output/
    python examples/lectures/dropout.py --quick    # a few seconds

Compares mean, variance and covariance over many masks with the formulas, then trains on few digits
with units or weights dropped, then deeper networks with dropout before, between and behind batch
norm (variance_shift.py). docs/lectures/dropout.md says what the pictures show.
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from lab import (
    PALETTE,
    WITH,
    WITHOUT,
    Checks,
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
from networks import Linear, Network, Relu, evaluate, glorot, he, train_epoch
from optimisers import Momentum
from tqdm import tqdm
from variance_shift import compare_orders

import bnfast

Place = Literal["units", "weights"]  # what is dropped: activations, or weights (DropConnect)
Mode = Literal["classic", "inverted"]
# What the sweep drops. Weights have one mask a mini-batch; the third place has it for units, too.
PLACES = {"units": WITH, "weights": WITHOUT, "units, one mask": PALETTE[2]}
RATES = (0.0, 0.2, 0.4, 0.6, 0.8)
SAMPLES = 200  # training digits of the sweep: few, so that there is something to overfit
BATCH_SIZE = 20  # samples
UNITS = 200  # of each of two hidden layers
LEARNING_RATE = 0.02


def draw_z(
    theta: np.ndarray, a: np.ndarray, rate: float, mode: Mode, place: Place, masks: int
) -> np.ndarray:
    """Return z = theta a for each of `masks` masks on a or on theta, of shape (masks, outputs)."""
    z = np.empty((masks, len(theta)))
    for k in range(masks):
        dropped, _ = bnfast.dropout(
            a if place == "units" else theta, rate, seed=1, offset=k, mode=mode
        )
        z[k] = theta @ dropped if place == "units" else dropped @ a
    return z


def first_layer() -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of ten units, and one digit as their input."""
    theta = he(np.random.default_rng(0), 10, 64).astype(np.float64)
    return theta, digits(0).x_test[0].astype(np.float64)


def check_moments(checks: Checks, masks: int) -> None:
    """Compare mean and variance of z over masks with the formulas, unit by unit.

    The entries of a mask are independent, 1 with probability keep = 1 - rate, and so have variance
    keep rate. What is kept is scaled by s = 1 (classic) or 1 / keep (inverted). With mu = theta a:
    E z = s keep mu  and  Var z = s^2 keep rate sum_i (theta_i a_i)^2.
    """
    theta, a = first_layer()
    mu, squares = theta @ a, theta**2 @ a**2
    rows = []
    for rate, mode, place in product((0.2, 0.5), get_args(Mode), get_args(Place)):
        keep = 1 - rate
        scale = 1.0 if mode == "classic" else 1 / keep
        variance = scale**2 * keep * rate * squares
        z = draw_z(theta, a, rate, mode, place, masks)
        errors = (z.mean(axis=0) - scale * keep * mu) / np.sqrt(variance / masks)
        ratios = z.var(axis=0, ddof=1) / variance
        name = f"with rate {rate}, {mode}, {place} dropped"
        checks(np.abs(errors).max() < 6, f"{name}: the mean of z is {errors} standard errors off")
        # The relative standard error of a variance is sqrt(2 / masks) for nearly normal z.
        checks(
            np.abs(ratios - 1).max() < 8 * np.sqrt(2 / masks),
            f"{name}: the variance of z is {ratios} of the formula's",
        )
        slope = z.mean(axis=0) @ mu / (mu @ mu)  # of the line through 0 by least squares
        cells = [mode, place, rate, f"{scale * keep:g}", f"{slope:.4f}"]
        cells += [f"{np.abs(errors).max():.1f}", f"{scale**2 * keep * rate:.4g}"]
        rows.append([*cells, f"{z.var(axis=0, ddof=1).sum() / squares.sum():.4g}"])
        if mode == "classic":
            inference = theta @ bnfast.dropout_inference(a, rate)  # = keep mu, nothing random
            checks(np.allclose(inference, keep * mu), f"{name}: inference is not the mean")
    headers = ["mode", "dropped", "rate", "E z / mu", "measured", "worst unit, standard errors"]
    headers += ["Var z / sum (theta a)^2", "measured"]
    table(headers, rows, title=f"z = theta a of ten units, over {masks} masks")


def check_covariance(checks: Checks, options: argparse.Namespace) -> None:
    """Draw what tells the two apart: outputs share a mask of units, but not one of weights.

    Dropping units, inverted: Cov(z_j, z_k) = rate / keep sum_i theta_ji theta_ki a_i^2. Dropping
    weights, the same for j = k and 0 for others, as each output's weights have their own mask.
    """
    theta, a = first_layer()
    rate = 0.5
    formula = rate / (1 - rate) * (theta * a**2) @ theta.T
    limit = np.abs(formula).max()
    figure, axes = new_figure(1, 3, width=10.5, height=4.0)
    pictures = [("formula for units", formula)]
    expectations: dict[Place, np.ndarray] = {
        "units": formula,
        "weights": np.diag(np.diag(formula)),
    }
    for place, expected in expectations.items():
        z = draw_z(theta, a, rate, "inverted", place, options.masks)
        covariance = np.cov(z, rowvar=False)
        # The standard errors of the entries, for nearly normal z (Wishart's distribution).
        variance = np.diag(expected)
        errors = np.sqrt((np.outer(variance, variance) + expected**2) / options.masks)
        checks(
            (np.abs(covariance - expected) / errors).max() < 8,
            f"the covariance with {place} dropped is not that of the formula",
        )
        pictures.append((f"measured, {place} dropped", covariance))
    for axis, (name, covariance) in zip(axes[0], pictures, strict=True):
        picture = axis.imshow(covariance, cmap="PuOr", vmin=-limit, vmax=limit)
        ticks = range(0, len(theta), 3)
        axis.set(title=name, xlabel="output j", ylabel="output k", xticks=ticks, yticks=ticks)
        axis.grid(False)
        figure.colorbar(picture, ax=axis, shrink=0.7, label="covariance of z_j and z_k")
    save(
        figure,
        options.out,
        "dropout_covariance",
        title="Covariance of ten outputs z over masks of rate 0.5, for one digit",
        caption="A dropped unit is missing for all outputs at once: they vary together (off the "
        "diagonal). A dropped weight concerns one\noutput: they vary each by itself. The variances "
        f"(on the diagonal) are the same. {options.masks} masks, inverted dropout.",
    )


class DropConnect(Linear):
    """z = (P W) a + b: dropout of weights (Wan et al. 2013).

    A mini-batch has one mask P here, as z is one product then; Wan et al. draw one for each sample.
    """

    def __init__(self, weight: np.ndarray, rate: float, rng: np.random.Generator) -> None:
        super().__init__(weight, bias=True)
        self.whole = weight
        self.drop = bnfast.Dropout(rate, rng=rng)

    def train(self, mode: bool) -> None:
        """Say whether weights are dropped."""
        self.drop.train(mode)

    def __call__(self, a: np.ndarray) -> np.ndarray:
        self.weight = self.drop(self.whole)
        return super().__call__(a)

    def backward(self, dz: np.ndarray) -> np.ndarray:
        """Keep the gradients of the whole weight and of the bias; return the gradient of a."""
        da = super().backward(dz)
        self.dweight = self.drop.backward(self.dweight)
        self.weight = self.whole  # the optimiser moves all weights
        return da


def build(place: str, rate: float, rng: np.random.Generator) -> Network:
    """Two hidden layers; what is dropped is the input of the last two layers, or their weights."""
    weights = he(rng, UNITS, 64), he(rng, UNITS, UNITS), glorot(rng, 10, UNITS)
    layers: list[Any] = [Linear(weights[0], bias=True)]
    for weight in weights[1:]:
        layers.append(Relu())
        if place == "weights":
            layers.append(DropConnect(weight, rate, rng))
        else:
            shared = (0,) if place == "units, one mask" else ()
            drop = bnfast.Dropout(rate, broadcast_axes=shared, rng=rng)
            layers += [drop, Linear(weight, bias=True)]
    return Network(layers)


def train_few(place: str, rate: float, seed: int, epochs: int) -> list[float]:
    """Train on few digits; return training and test accuracy, training and test loss."""
    data, rng = digits(seed), np.random.default_rng(seed)
    x, labels = data.x_train[:SAMPLES], data.y_train[:SAMPLES]
    network, optimiser = build(place, rate, rng), Momentum(LEARNING_RATE)
    for _ in range(epochs):
        train_epoch(network, optimiser, x, labels, batch_size=BATCH_SIZE, rng=rng)
    (train_loss, train), (test_loss, test) = (
        evaluate(network, x, labels),
        evaluate(network, data.x_test, data.y_test),
    )
    return [train, test, train_loss, test_loss]


def sweep_rates(checks: Checks, options: argparse.Namespace) -> None:
    """Train at each rate, in each of PLACES; report the gap between training and test."""
    results: dict[tuple[str, float], np.ndarray] = {}
    for place in PLACES:
        for rate in tqdm(RATES, desc=f"{place} dropped", unit="rate"):
            if rate == 0.0 and ("units", rate) in results:
                results[place, rate] = results["units", rate]  # nothing is dropped anywhere
                continue
            results[place, rate] = np.array(
                [train_few(place, rate, k, options.sweep_epochs) for k in range(options.seeds)]
            )
    rows = []
    for (place, rate), runs in results.items():
        gain = runs[:, 1] - results[place, 0.0][:, 1]  # seed by seed: same data, same weights
        cells = [place, rate, percent(runs[:, 0]), percent(runs[:, 1])]
        cells += [percent(runs[:, 0] - runs[:, 1]), percent(gain)]
        rows.append([*cells, mean_spread(runs[:, 3] - runs[:, 2], 2)])
    headers = ["dropped", "rate", "training accuracy", "test accuracy", "gap", "test, less rate 0"]
    headers.append("gap of the loss, nats")
    table(headers, rows, title=f"{SAMPLES} training digits, seeds: {options.seeds}")
    for place in PLACES:
        checks(
            results[place, 0.2][:, 1].mean() > (0.5 if options.quick else 0.85),
            f"networks with a fifth of their {place} dropped do not learn",
        )
    draw_sweep(results, options)


def draw_sweep(results: dict[tuple[str, float], np.ndarray], options: argparse.Namespace) -> None:
    """Draw accuracies and losses against the rate."""
    figure, axes = new_figure(1, 2, width=9.5, height=4.2)
    for place, colour in PLACES.items():
        runs = np.stack([results[place, rate] for rate in RATES], axis=1)
        for column, style, name in ((0, "--", "training"), (1, "-", "test")):
            label = f"{place}: {name}"
            plot_band(axes[0, 0], RATES, 100 * runs[..., column], colour, label, style)
            plot_band(axes[0, 1], RATES, runs[..., column + 2], colour, label, style)
    axes[0, 0].set(xlabel="dropout rate", ylabel="accuracy, %", title="accuracy")
    axes[0, 1].set(xlabel="dropout rate", ylabel="cross-entropy, nats", title="loss")
    axes[0, 0].legend(fontsize=9)
    save(
        figure,
        options.out,
        "dropout_rates",
        title=f"Dropout of units and of weights: {SAMPLES} training digits",
        caption=f"Means and ranges of {options.seeds} seeds. The gap is the distance between a "
        "dashed line and the solid one of its colour.\nAll accuracies are measured with nothing "
        "dropped.",
    )


def lecture(checks: Checks) -> None:
    """Run all parts."""
    options = arguments(
        "Dropout: expectation and variance, overfitting, and batch norm.",
        quick={"seeds": 1, "masks": 8000, "sweep_epochs": 10, "epochs": 2},
        full={"seeds": 5, "masks": 40000, "sweep_epochs": 100, "epochs": 20},
    )
    check_moments(checks, options.masks)
    check_covariance(checks, options)
    sweep_rates(checks, options)
    compare_orders(checks, options)


if __name__ == "__main__":
    run(lecture)
