"""A training run as its batch norms saw it: recorded, drawn, and as a page to scrub through.

    python examples/lectures/recorder.py            # two minutes; results in lectures_output/
    python examples/lectures/recorder.py --quick    # a few seconds

Trains a sigmoid network at two learning rates with a `bnfast.viz.Recorder` behind its batch norms,
and writes the page and the picture of a layer. Then it asks the recorded numbers how far the
running statistics are behind the batches. docs/lectures/recorder.md says what came out.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from lab import Checks, arguments, digits, mean_spread, percent, run, table
from networks import build_network, evaluate, train_epoch
from optimisers import SGD
from tqdm import tqdm

import bnfast
from bnfast.viz import Recorder, Recording

BATCH_SIZE = 60  # samples
SIZES = (64, 100, 100, 100, 100, 10)  # features at each step: four hidden layers
RATES = (0.3, 3.0)  # learning rates of SGD
MOMENTUM = 0.1  # weight of the new batch in the running statistics
HIDDEN = [f"hidden layer {number}" for number in range(1, len(SIZES) - 1)]
# What |batch mean - running mean| would be, in standard deviations of a channel, if the statistics
# of the data stood still: the running mean m' = (1 - w) m + w b has the variance w / (2 - w) of b,
# which is 1 / BATCH_SIZE, so that b - m' = (1 - w) (b - m) is normal with this deviation. The
# median of |normal| is 0.6745 deviations.
STILL = 0.6745 * (1 - MOMENTUM) * np.sqrt((1 + MOMENTUM / (2 - MOMENTUM)) / BATCH_SIZE)


def train(seed: int, rate: float, epochs: int) -> tuple[Recording, Recording, float]:
    """Train a network; return what to show of it, every call with all channels, and accuracy."""
    data, rng = digits(seed), np.random.default_rng(seed)
    network = build_network(SIZES, rng=rng, norm=lambda n: bnfast.BatchNorm(n, momentum=MOMENTUM))
    layers = dict(zip(HIDDEN, network.of_type(bnfast.BatchNorm), strict=True))
    shown = Recorder(every=5)
    every_call = Recorder(every=1, bins=1, channels=max(SIZES), most_records=10_000)
    with shown.watch(layers), every_call.watch(layers):
        for _ in range(epochs):
            train_epoch(
                network, SGD(rate), data.x_train, data.y_train, batch_size=BATCH_SIZE, rng=rng
            )
    return shown, every_call, evaluate(network, data.x_test, data.y_test)[1]


def channels_of(recording: Recording, layer: str, quantity: str) -> np.ndarray:
    """Return a quantity of every call and channel, of shape (calls, channels)."""
    return np.array([record.channels[quantity].picked for record in recording[layer]])


def check_running_statistics(recording: Recording, checks: Checks) -> None:
    """The recorded running statistics are the averages of the recorded batches, to rounding."""
    for layer in HIDDEN:
        for quantity, correction in (("mean", 1.0), ("var", BATCH_SIZE / (BATCH_SIZE - 1))):
            running = channels_of(recording, layer, f"running_{quantity}")
            batch = correction * channels_of(recording, layer, f"batch_{quantity}")
            expected = (1 - MOMENTUM) * running[:-1] + MOMENTUM * batch[1:]
            scale = np.abs(batch).max()
            error = np.abs(running[1:] - expected).max() / scale
            checks(error < 1e-5, f"running {quantity} of {layer} is wrong by {error:.1e}")


def lag(recording: Recording, layer: str, calls: slice) -> tuple[float, float]:
    """Return medians: |batch - running mean| in deviations, and batch / running variance."""
    names = ("batch_mean", "running_mean", "batch_var", "running_var")
    mean, running_mean, var, running_var = (
        channels_of(recording, layer, name)[calls] for name in names
    )
    distance = np.abs(mean - running_mean) / np.sqrt(var)
    return float(np.median(distance)), float(np.median(var / running_var))


def report(runs: dict[float, list[Recording]], epochs: int) -> None:
    """Print how far the running statistics are behind: early and in the last epoch.

    The first epoch still shows the values 0 and 1 that they start from.
    """
    calls = len(runs[RATES[0]][0][HIDDEN[0]]) // epochs  # of an epoch
    rows: list[list[Any]] = []
    for rate, recordings in runs.items():
        for layer in HIDDEN:
            row = [f"{rate:g}", layer]
            for when in (slice(calls, 2 * calls), slice(-calls, None)):
                distances, ratios = zip(*(lag(r, layer, when) for r in recordings), strict=True)
                row += [mean_spread(distances, 3), mean_spread(ratios, 2)]
            rows.append(row)
    headings = ("learning rate", "layer", "mean, epoch 2", "variance, epoch 2")
    title = "|batch - running mean| in deviations of the channel, and batch / running variance"
    title += f".\nMedians over channels and steps; data that stood still would have {STILL:.3f}"
    table((*headings, f"mean, epoch {epochs}", f"variance, epoch {epochs}"), rows, title=title)


def report_layers(runs: dict[float, list[Recording]]) -> None:
    """Print what entered each layer at the first step and at the last, and gamma and beta then."""
    rows = []
    for rate, recordings in runs.items():
        for layer in HIDDEN:
            width = [
                [
                    r[layer][at].input.quantiles[-1] - r[layer][at].input.quantiles[0]
                    for at in (0, -1)
                ]
                for r in recordings
            ]
            last = [r[layer][-1].channels for r in recordings]
            gamma = [channels["gamma"].quantiles[2] for channels in last]
            beta = [
                channels["beta"].quantiles[-1] - channels["beta"].quantiles[0] for channels in last
            ]
            first, now = np.transpose(width)
            cells = [mean_spread(first, 2), mean_spread(now, 2)]
            rows.append([f"{rate:g}", layer, *cells, mean_spread(gamma, 2), mean_spread(beta, 2)])
    title = "Width of the middle 90 % of x, then gamma (median) and beta (width of 90 %) at the end"
    headings = ("learning rate", "layer", "x, first step", "x, last step", "gamma", "beta")
    table(headings, rows, title=title)


def lecture(checks: Checks) -> None:
    """Record all runs; write the page and a picture of the first at each rate; report."""
    options: argparse.Namespace = arguments(
        "A training run as its batch norms saw it.",
        quick={"seeds": 1, "epochs": 3},
        full={"seeds": 5, "epochs": 30},
    )
    options.out.mkdir(parents=True, exist_ok=True)
    runs: dict[float, list[Recording]] = {rate: [] for rate in RATES}
    accuracies: dict[float, list[float]] = {rate: [] for rate in RATES}
    cases = [(seed, rate) for seed in range(options.seeds) for rate in RATES]
    for seed, rate in tqdm(cases, desc="recorded runs", unit="run"):
        shown, every_call, accuracy = train(seed, rate, options.epochs)
        runs[rate].append(every_call)
        accuracies[rate].append(accuracy)
        check_running_statistics(every_call, checks)
        if seed == 0:
            title = f"Four sigmoid layers with batch norm, learning rate {rate:g}"
            shown.save_page(options.out / f"recorder_rate_{rate:g}.html", title=title)
            figure = shown.plot(HIDDEN[-1])
            figure.savefig(options.out / f"recorder_rate_{rate:g}.png", dpi=80)
            print(f"\nPage and picture: {options.out}/recorder_rate_{rate:g}.html, .png")
    rows = [(f"{rate:g}", percent(values)) for rate, values in accuracies.items()]
    table(("learning rate", "test accuracy"), rows)
    report_layers(runs)
    report(runs, options.epochs)


if __name__ == "__main__":
    run(lecture)
