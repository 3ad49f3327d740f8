"""How batch norm helps optimisation: the loss along its gradient, with PyTorch and bnfast.torch.

    python examples/lectures/landscape.py            # about three minutes on one core
    python examples/lectures/landscape.py --quick    # ten seconds

Repeats the experiments of Santurkar et al. (2018) on small images: at every n-th step of training
it looks at the loss and its gradient at several distances along the negative gradient, without and
with batch norm, and with noise behind batch norm that makes the inputs of every layer shift.
docs/lectures/landscape.md says what comes out. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
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
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from networks import batches
from torch import nn
from tqdm import tqdm
from vgg import (
    NOISY,
    WITH_NORM,
    WITHOUT_NORM,
    accuracy,
    build,
    draw_noise,
    loss_and_gradient,
    move,
    norm,
    same_bits,
)

BATCH_SIZE = 64  # samples
PROBE_SIZE = 256  # samples on which distributions are compared
RATES = (0.03, 0.1)  # of SGD, the same for all networks
DISTANCES = np.geomspace(0.5, 4.0, 7)  # of the points looked at, in steps of training
LOSS_BANDS = ((1.0, 2.0), (0.3, 1.0), (0.1, 0.3))  # nats: networks that are equally far
COLOURS = {WITHOUT_NORM: WITHOUT, WITH_NORM: WITH, NOISY: PALETTE[2]}
ACCURACIES = ("as in training", "without noise", "test mode", "test samples")
Moments: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]  # means and deviations of channels


@dataclass
class Landscape:
    """The loss and its gradient at several distances along the negative gradient of one step."""

    step: int
    rate: float
    loss: float  # here
    gradient_norm: float
    losses: np.ndarray  # there
    changes: np.ndarray  # l2 distance of the gradient there from the one here

    @property
    def loss_range(self) -> float:
        """The paper's variation of the loss."""
        return float(np.ptp(self.losses))

    @property
    def largest_change(self) -> float:
        """The paper's gradient predictiveness: how far the gradient is off, at worst."""
        return float(self.changes.max())

    @property
    def relative_change(self) -> float:
        """The same as a share of the gradient's own norm."""
        return self.largest_change / self.gradient_norm

    @property
    def smoothness(self) -> float:
        """Effective beta: the largest change of the gradient over the distance moved."""
        return float(np.max(self.changes / (DISTANCES * self.rate * self.gradient_norm)))

    @property
    def stability(self) -> float:
        """Beta times the rate: gradient descent on a quadratic function diverges above 2."""
        return self.smoothness * self.rate


@dataclass
class Run:
    """What one training left behind."""

    losses: list[float] = field(default_factory=list)  # of the mini-batch, at each step
    landscapes: list[Landscape] = field(default_factory=list)  # at every n-th step
    drifts: list[float] = field(default_factory=list)  # over the step after each of them
    means: list[float] = field(default_factory=list)  # of one channel before the last ReLU
    state: dict[str, torch.Tensor] = field(default_factory=dict)  # at the end
    accuracies: tuple[float, ...] = ()  # in the order of ACCURACIES


Runs: TypeAlias = dict[tuple[float, str], list[Run]]  # for a rate and a kind, one of each seed


def look_around(
    network: nn.Sequential, x: torch.Tensor, labels: torch.Tensor, *, rate: float, step: int
) -> Landscape:
    """Measure along the gradient, on copies: the network in training is not touched."""
    loss, here = loss_and_gradient(copy.deepcopy(network), x, labels)
    losses, changes = [], []
    for distance in DISTANCES * rate:
        twin = copy.deepcopy(network)
        move(twin, here, float(distance))
        loss_there, there = loss_and_gradient(twin, x, labels)
        losses.append(loss_there)
        changes.append(norm([a - b for a, b in zip(there, here, strict=True)]))
    return Landscape(step, rate, loss, norm(here), np.array(losses), np.array(changes))


def moments(network: nn.Sequential, x: torch.Tensor, noise: torch.Generator) -> Moments:
    """Return mean and standard deviation of each channel that enters a ReLU, from a copy."""
    twin = copy.deepcopy(network)
    draw_noise(twin, len(x), noise)
    found = []
    with torch.no_grad():
        for layer in twin:
            if isinstance(layer, nn.ReLU):
                found.append((x.mean(dim=(0, 2, 3)), x.std(dim=(0, 2, 3))))
            x = layer(x)
    return found


def drift(before: Moments, after: Moments) -> float:
    """Return how far distributions moved, in their own standard deviations; the mean of channels.

    sqrt((change of mean)^2 + (change of deviation)^2) is the 2-Wasserstein distance of two normal
    distributions.
    """
    moved = [
        torch.sqrt((mean - old_mean) ** 2 + (std - old_std) ** 2) / old_std
        for (old_mean, old_std), (mean, std) in zip(before, after, strict=True)
    ]
    return float(torch.cat(moved).mean())


def train(kind: str, seed: int, data: Data, *, rate: float, epochs: int, every: int) -> Run:
    """Train by plain SGD; look around at every n-th step (`every`), or never (0)."""
    x, labels = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    network, rng, result = build(kind, seed), np.random.default_rng(seed), Run()
    noise, probe_noise = (torch.Generator().manual_seed(2 * seed + k) for k in (0, 1))
    for _ in range(epochs):
        for batch in map(torch.from_numpy, batches(len(x), BATCH_SIZE, rng)):
            draw_noise(network, BATCH_SIZE, noise)
            step = len(result.losses)
            looks = every > 0 and step % every == 0
            if looks:
                around = look_around(network, x[batch], labels[batch], rate=rate, step=step)
                result.landscapes.append(around)
                before = moments(network, x[:PROBE_SIZE], probe_noise)
            loss, gradient = loss_and_gradient(network, x[batch], labels[batch])
            move(network, gradient, rate)
            result.losses.append(loss)
            if looks:
                after = moments(network, x[:PROBE_SIZE], probe_noise)
                result.drifts.append(drift(before, after))
                result.means.append(float(after[-1][0][0]))
    result.state = network.state_dict()
    x_test, y_test = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    draw_noise(network, len(x), noise)
    result.accuracies = (
        accuracy(network, x, labels, training=True),
        accuracy(network, x, labels, training=True, noise=False),
        accuracy(network, x, labels, training=False),
        accuracy(network, x_test, y_test, training=False),
    )
    return result


def check_measurements(data: Data, checks: Checks) -> None:
    """Compare slopes with the gradient in float64, and trainings with and without a look around."""
    rows = []
    for kind in COLOURS:
        network = build(kind, 0).double()
        x, labels = (
            torch.from_numpy(data.x_train[:32]).double(),
            torch.from_numpy(data.y_train[:32]),
        )
        draw_noise(network, len(x), torch.Generator().manual_seed(0))
        _, gradient = loss_and_gradient(network, x, labels)
        losses = []
        for distance in (1e-6, -2e-6):
            move(network, gradient, distance)
            losses.append(loss_and_gradient(network, x, labels)[0])
        slope = (losses[1] - losses[0]) / 2e-6
        error = abs(slope / norm(gradient) ** 2 - 1)
        plain, looked = (
            train(kind, 0, data, rate=RATES[-1], epochs=1, every=every) for every in (0, 11)
        )
        same = same_bits(plain.state, looked.state)
        rows.append((kind, f"{error:.0e}", "yes" if same else "no"))
        checks(error < 1e-5, f"{kind}: the slope along the gradient is off by {error:.1e}")
        checks(same, f"{kind}: looking around has changed the training")
    headers = ("network", "slope against gradient", "same bits, looked at or not")
    table(headers, rows, title="The measurement itself: relative error; weights after an epoch")


def medians(landscapes: Sequence[Landscape]) -> list[float]:
    """Return the median over steps of everything that is measured along the gradient."""
    names = ("loss_range", "largest_change", "relative_change", "smoothness", "stability")
    return [float(np.median([getattr(one, name) for one in landscapes])) for name in names]


MEASURES = ("range of the loss", "change of the gradient", "share of its norm", "beta", "x rate")


def report_landscapes(runs: Runs, checks: Checks) -> None:
    """Print medians over all steps, and over steps at which the networks are equally far."""
    for name, until in (("all steps", np.inf), ("the first 20 steps", 20)):
        rows = []
        for (rate, kind), of_seeds in runs.items():
            early = [[one for one in r.landscapes if one.step < until] for r in of_seeds]
            values = np.array([medians(one) for one in early]).T
            cells = [mean_spread(column, 2) for column in values]
            rows.append((f"{rate:g}", kind, *cells))
        title = f"Along the gradient: medians over {name}, mean ± spread of seeds"
        table(("rate", "network", *MEASURES), rows, title=title)
    rows = []
    for low, high in LOSS_BANDS:
        for (rate, kind), of_seeds in runs.items():
            all_steps = [one for run_ in of_seeds for one in run_.landscapes]
            chosen = [one for one in all_steps if low <= one.loss < high]
            if chosen:
                cells = [f"{value:.3g}" for value in medians(chosen)]
                rows.append((f"{low:g} to {high:g}", f"{rate:g}", kind, len(chosen), *cells))
    headers = ("loss here (nats)", "rate", "network", "steps", *MEASURES)
    table(headers, rows, title="The same at equal loss: medians over the steps of all seeds")
    without, normed = (
        np.mean([max(one.loss_range for one in r.landscapes) for r in runs[RATES[-1], kind]])
        for kind in (WITHOUT_NORM, WITH_NORM)
    )
    failure = f"the loss ranges over {without:.2f} at most without BN, over {normed:.2f} with it"
    checks(bool(without > normed), failure)


def report_noise(runs: Runs, epochs: int, checks: Checks) -> None:
    """Print how fast the three networks learn, and how far their layers' inputs move in a step."""
    rows = []
    for (rate, kind), of_seeds in runs.items():
        epoch = len(of_seeds[0].losses) // epochs  # steps
        halves = [np.convolve(one.losses, np.ones(epoch) / epoch, "valid") for one in of_seeds]
        reached = [int(np.argmax(curve < 0.5)) + epoch for curve in halves if (curve < 0.5).any()]
        steps = f"{np.mean(reached):.0f}" if len(reached) == len(of_seeds) else "not all"
        accuracies = np.array([one.accuracies for one in of_seeds]).T
        last = [np.mean(one.losses[-epoch:]) for one in of_seeds]
        drifts = [np.mean(one.drifts) for one in of_seeds]
        cells = [mean_spread(drifts, 4), steps, mean_spread(last, 3), *map(percent, accuracies)]
        rows.append((f"{rate:g}", kind, *cells))
        if kind == WITH_NORM:
            lowest = accuracies[2].min()
            checks(bool(lowest > 0.8), f"with batch norm only {100 * lowest:.1f} % are learnt")
    headers = ("rate", "network", "drift a step", "steps to 0.5", "last loss")
    title = "Noise behind batch norm: drift in standard deviations, loss and accuracy"
    table((*headers, *ACCURACIES), rows, title=title)
    for rate in RATES:
        plain, normed, noisy = (np.array([one.drifts for one in runs[rate, k]]) for k in COLOURS)
        share = 100 * np.mean(noisy > plain)
        print(f"\nRate {rate:g}: noise moves more than no batch norm at {share:.0f} % of the steps")
        checks(bool(noisy.mean() > 10 * normed.mean()), f"noise moves by {noisy.mean():.2g} only")


def scale_logarithmically(axis: Any) -> None:
    """Make the y axis logarithmic, with plain numbers at 1 and 3 of every power of ten."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def draw_landscapes(runs: Runs, options: argparse.Namespace) -> None:
    """Draw the paper's three plots, a row for each learning rate."""
    figure, axes = new_figure(len(RATES), 3, height=5.8, sharex=True)
    for row, rate in zip(axes, RATES, strict=True):
        for kind in (WITHOUT_NORM, WITH_NORM):
            seen = runs[rate, kind][0].landscapes
            steps = [one.step for one in seen]
            for axis, name in zip(row, ("losses", "changes"), strict=False):
                values = np.array([getattr(one, name) for one in seen])
                shown = {"color": COLOURS[kind], "alpha": 0.6, "linewidth": 0.5, "label": kind}
                axis.fill_between(steps, values.min(axis=1), values.max(axis=1), **shown)
            smoothness = [[one.smoothness for one in r.landscapes] for r in runs[rate, kind]]
            plot_band(row[2], steps, smoothness, COLOURS[kind], kind)
        for axis, label in zip(
            row,
            ("Loss (nats)", "Change of gradient (l2)", "Effective beta-smoothness"),
            strict=True,
        ):
            scale_logarithmically(axis)
            axis.set(ylabel=label, title=f"rate {rate:g}")
        row[2].axhline(2 / rate, color="black", linestyle=":", linewidth=1.2, label="2 / rate")
    for axis in axes[-1]:
        axis.set(xlabel="Step of training")
    axes[0, 0].legend(fontsize=8)
    axes[0, 2].legend(fontsize=8)
    save(
        figure,
        options.out,
        "landscape_gradient",
        title="The loss along its gradient, without and with batch norm",
        caption="Left and centre: the range from half a step to four steps along the negative "
        "gradient (seed 0). Right: the largest change of the gradient\nover the distance moved; "
        "lines: means of the seeds, bands: from the lowest to the highest.",
    )


def draw_noise_control(runs: Runs, options: argparse.Namespace) -> None:
    """Draw training curves, the drift of every layer's inputs, and one channel's mean."""
    figure, axes = new_figure(len(RATES), 3, height=5.8, sharex=True)
    for row, rate in zip(axes, RATES, strict=True):
        for kind, colour in COLOURS.items():
            of_seeds = runs[rate, kind]
            steps = [one.step for one in of_seeds[0].landscapes]
            smooth = [np.convolve(one.losses, np.ones(9) / 9, "valid") for one in of_seeds]
            plot_band(row[0], np.arange(len(smooth[0])) + 4, smooth, colour, kind)
            plot_band(row[1], steps, [one.drifts for one in of_seeds], colour, kind)
            row[2].plot(steps, of_seeds[0].means, color=colour, linewidth=1.0, label=kind)
        for axis in row[:2]:
            scale_logarithmically(axis)
        row[0].set(ylabel="Training loss (nats)", title=f"rate {rate:g}")
        row[1].set(ylabel="Drift a step (std. dev.)", title=f"rate {rate:g}")
        row[2].set(ylabel="Mean of one channel (seed 0)", title=f"rate {rate:g}")
    for axis in axes[-1]:
        axis.set(xlabel="Step of training")
    axes[0, 0].legend(fontsize=8)
    save(
        figure,
        options.out,
        "landscape_noise",
        title="Noise behind batch norm: inputs that shift more",
        caption="Left: loss of the mini-batches, mean of 9 steps. Centre: how far what enters the "
        "ReLUs moves in one step. Right: the mean of channel 0 that enters\nthe last ReLU. "
        "Lines: means of the seeds, bands: from the lowest to the highest.",
    )


def lecture(checks: Checks) -> None:
    """Check the measurement, train and look around, report and draw."""
    full = {"seeds": 3, "epochs": 10, "every": 4}
    quick = {"seeds": 1, "epochs": 3, "every": 20}
    options = arguments("The loss along its gradient.", quick=quick, full=full)
    torch.set_num_threads(1)
    check_measurements(digits(0, images=True), checks)
    cases = [(rate, kind) for rate in RATES for kind in COLOURS]
    runs: Runs = {case: [] for case in cases}
    for seed in range(options.seeds):
        data = digits(seed, images=True)
        for rate, kind in tqdm(cases, desc=f"seed {seed}", unit="network"):
            once = train(kind, seed, data, rate=rate, epochs=options.epochs, every=options.every)
            runs[rate, kind].append(once)
    report_landscapes(runs, checks)
    report_noise(runs, options.epochs, checks)
    draw_landscapes(runs, options)
    draw_noise_control(runs, options)


if __name__ == "__main__":
    run(lecture)
