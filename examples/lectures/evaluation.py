"""The statistics that batch norm may use at test time, and how far each is from the truth.

    python examples/lectures/evaluation.py            # half a minute; pictures in lectures_output/
    python examples/lectures/evaluation.py --quick    # a few seconds

One network is trained while every kind of running statistics looks on, then tested with each of
them, one sample at a time, and with the statistics of test batches. Last, the variance within a
batch is compared with that of all samples. docs/lectures/evaluation.md says what comes out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import chain, count, islice
from typing import Any

import numpy as np
from batch_variance import report_variances, true_moments
from lab import (
    PALETTE,
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
from networks import Network, batches, build_network, evaluate, reestimated, train_step
from optimisers import SGD
from tqdm import tqdm

import bnfast

BATCH_SIZE = 60  # samples
SIZES = (64, 100, 100, 100, 10)  # features at each step: three hidden layers
STEPS = (1, 2, 3, 5, 8, 13, 20, 32, 50, 80, 130, 200, 320, 500, 800)  # where it is tested
TEST_BATCHES = (1, 2, 5, 20, 60, 360)  # samples


def darknet(num_features: int) -> bnfast.BatchNorm:
    """Return the layer of Darknet, whose rolling variance starts from 0 and not from 1."""
    layer = bnfast.BatchNorm.from_preset("darknet", num_features)
    layer.running.var = np.zeros(num_features, np.float32)
    return layer


ROLLING = "Darknet's rolling"
WAYS: dict[str, Callable[[int], bnfast.BatchNorm]] = {
    "average, momentum 0.5": lambda n: bnfast.BatchNorm(n, momentum=0.5),
    "average, momentum 0.1": lambda n: bnfast.BatchNorm(n, momentum=0.1),
    "average, momentum 0.01": lambda n: bnfast.BatchNorm(n, momentum=0.01),
    "average, momentum 0.001": lambda n: bnfast.BatchNorm(n, momentum=0.001),
    ROLLING: darknet,  # as momentum 0.01, but from 0
    "cumulative": lambda n: bnfast.BatchNorm(n, running_mode="cumulative"),
    "population, gathered": lambda n: bnfast.BatchNorm(n, running_mode="population"),
}
REESTIMATED = "population, re-estimated"  # with fixed weights, behind the training
BATCHES = f"batches of {BATCH_SIZE}"  # each by its own, in test mode as in training
TRUTH = "truth"
COLOURS = dict(zip([*WAYS, REESTIMATED, BATCHES], [*PALETTE, PALETTE[2], "0.5"], strict=True))
STYLES = {REESTIMATED: "--", "cumulative": "--", "population, gathered": ":"}


class Gathering(bnfast.RunningStats):
    """Running statistics that pass the moments of every batch on to other layers."""

    def __init__(self, layers: list[bnfast.BatchNorm]) -> None:
        super().__init__(layers[0].num_features)
        self.layers = layers

    def update(self, moments: bnfast.Moments) -> None:
        """Take the moments of one batch in."""
        super().update(moments)
        for layer in self.layers:
            layer.running.update(moments)


def replaced(network: Network, norms: list[bnfast.BatchNorm]) -> Network:
    """Return the network with other norms, which take over gamma and beta."""
    rest = iter(norms)
    layers = [next(rest) if isinstance(a, bnfast.BatchNorm) else a for a in network.layers]
    for norm, old in zip(norms, network.of_type(bnfast.BatchNorm), strict=True):
        norm.gamma, norm.beta = old.gamma, old.beta
    return Network(layers)


def squared_errors(network: Network, truth: list[bnfast.Moments]) -> np.ndarray:
    """Return the mean squared errors of mean and deviation, (layers, 2), in true variances."""
    errors = []
    for norm, true in zip(network.of_type(bnfast.BatchNorm), truth, strict=True):
        off = norm.running.mean - true.mean, np.sqrt(norm.running.var) - true.std()
        errors.append((np.square(off) / true.var()).mean(axis=1))
    return np.array(errors)


def distance(errors: np.ndarray) -> float:
    """Return from squared errors how far the statistics are off, in true standard deviations.

    For one unit it is sqrt((mean - true mean)^2 + (std - true std)^2) / true std: the 2-Wasserstein
    distance of two normal distributions. Over the units it is the root of the mean square.
    """
    return float(np.sqrt(errors.sum(axis=1).mean()))


def by_batches(
    network: Network, data: Data, truth: list[bnfast.Moments]
) -> tuple[float, np.ndarray]:
    """Return the accuracy of test batches, each by its own statistics, and how far those are off.

    The squared errors are those of training batches: their means over an epoch.
    """
    norms = network.of_type(bnfast.BatchNorm)
    # With momentum 1 the running statistics are those of the last batch.
    own = [bnfast.BatchNorm(norm.num_features, momentum=1.0, correction=0) for norm in norms]
    tested = replaced(network, own)
    given = answers(tested, data.x_test, BATCH_SIZE, np.arange(len(data.x_test)))
    errors = []
    for batch in full_batches(data.x_train, BATCH_SIZE):
        tested.forward(batch, training=True)
        errors.append(squared_errors(tested, truth))
    return float(np.mean(given == data.y_test)), np.mean(errors, axis=0)


def full_batches(x: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut `x` into batches, and drop what is left."""
    return np.split(x[: len(x) // size * size], len(x) // size)


def follow(
    options: argparse.Namespace, seed: int, data: Data, checks: Checks
) -> tuple[Network, dict[str, Any]]:
    """Train; at certain steps, return test accuracy and distance to the truth of each way."""
    network = build_network(SIZES, rng=np.random.default_rng(seed), norm=bnfast.BatchNorm)
    own = network.of_type(bnfast.BatchNorm)
    ways = {name: [make(norm.num_features) for norm in own] for name, make in WAYS.items()}
    for index, norm in enumerate(own):
        norm.running = Gathering([layers[index] for layers in ways.values()])
    optimiser, rng = SGD(options.rate), np.random.default_rng(seed)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in (*COLOURS, TRUTH)}
    epochs = (batches(len(data.x_train), BATCH_SIZE, rng) for _ in count())
    for step, batch in enumerate(islice(chain.from_iterable(epochs), options.steps), 1):
        train_step(network, optimiser, data.x_train[batch], data.y_train[batch])
        if step in STEPS:
            truth = true_moments(network, data.x_train)
            tested = {name: replaced(network, layers) for name, layers in ways.items()}
            tested[REESTIMATED] = reestimated(network, data.x_train, BATCH_SIZE)
            tested[TRUTH] = reestimated(network, data.x_train)
            for name, candidate in tested.items():
                accuracy = evaluate(candidate, data.x_test, data.y_test)[1]
                seen[name].append((accuracy, distance(squared_errors(candidate, truth))))
            accuracy, errors = by_batches(network, data, truth)
            seen[BATCHES].append((accuracy, distance(errors)))
            # Both are fed alike, from 1 and from 0: of that start 0.99^step is left, by algebra.
            pair = [ways[name][0].running.var for name in ("average, momentum 0.01", ROLLING)]
            off = np.abs(pair[0] - pair[1] - 0.99**step).max()
            checks(off < 1e-5, f"after step {step} the share of the start is {off:.0e} off")
    return network, seen


def report_steps(options: argparse.Namespace, checks: Checks) -> list[tuple[Network, Data]]:
    """Print and draw every way against the steps; return the trained networks."""
    trained, runs = [], []
    for seed in tqdm(range(options.seeds), desc="training", unit="seed"):
        data = digits(seed)
        network, seen = follow(options, seed, data, checks)
        trained.append((network, data))
        runs.append(seen)
    steps = [step for step in STEPS if step <= options.steps]
    shown = [step for step in (1, 20, 80, 200, 800) if step <= options.steps]
    figure, axes = new_figure(1, 2, width=10.4, height=4.2)
    accuracies, distances = [], []
    for name in (*COLOURS, TRUTH):
        values = np.array([seen[name] for seen in runs])  # seeds, steps, (accuracy, distance)
        at = [values[:, steps.index(step)] for step in shown]
        accuracies.append((name, *(percent(a[:, 0]) for a in at)))
        if name in COLOURS:
            distances.append((name, *(mean_spread(a[:, 1], 3) for a in at)))
            style = STYLES.get(name, "-")
            plot_band(axes[0, 0], steps, 100 * values[:, :, 0], COLOURS[name], name, style)
            plot_band(axes[0, 1], steps, values[:, :, 1], COLOURS[name], name, style)
    check_steps(runs, checks)
    headers = ("statistics", *(f"step {step}" for step in shown))
    table(headers, accuracies, title="Test accuracy")
    title = "Distance to the true statistics, in standard deviations"
    table(headers, distances, title=title)
    axes[0, 0].set(xscale="log", xlabel="Training steps", ylabel="Test accuracy (%)", ylim=(0, 102))
    axes[0, 1].set(xscale="log", yscale="log", xlabel="Training steps")
    axes[0, 1].set(ylabel="Distance to the truth (deviations)")
    axes[0, 1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(
        figure,
        options.out,
        "evaluation_steps",
        title="One network, tested with each kind of statistics",
        caption=f"Digits, batches of {BATCH_SIZE}, SGD at rate {options.rate:g}. Lines: means of "
        "the seeds; bands: from the lowest to the highest.\nThe truth: mean and standard deviation "
        "of all training samples under the weights of that step. The "
        "lines of cumulative and of population, gathered, lie on each other.",
    )
    return trained


def check_steps(runs: list[dict[str, Any]], checks: Checks) -> None:
    """Check the distances that must come out, whatever the network learns."""
    for seen in runs:
        final = {name: values[-1] for name, values in seen.items()}
        off = final[TRUTH][1]
        checks(off < 1e-5, f"merged moments differ from those of one pass by {off:.0e} deviations")
        checks(final[REESTIMATED][1] < 0.1, "re-estimated statistics are far from the truth")
        accuracy = final["average, momentum 0.1"][0]
        checks(accuracy > 0.85, f"test accuracy is {100 * accuracy:.1f} % only")


def answers(network: Network, x: np.ndarray, size: int, order: np.ndarray) -> np.ndarray:
    """Return the class given to each sample by the statistics of test batches in this order."""
    given = np.empty(len(x), np.int64)
    for start in range(0, len(x), size):
        batch = order[start : start + size]
        given[batch] = network.forward(x[batch], training=True).argmax(axis=1)
    return given


def report_test_batches(
    options: argparse.Namespace, trained: list[tuple[Network, Data]], checks: Checks
) -> None:
    """Answer with the statistics of test batches, and one sample at a time."""
    found: dict[int, list[tuple[float, float]]] = {size: [] for size in TEST_BATCHES}
    running = []
    for seed, (network, data) in enumerate(trained):
        tested = reestimated(network, data.x_train)  # the present network goes on unchanged
        x, labels = data.x_test, data.y_test
        together = tested.forward(x, training=False)
        alone = np.concatenate([tested.forward(sample[None], training=False) for sample in x])
        off = np.abs(alone - together).max() / np.abs(together).max()
        checks(off < 1e-5, f"alone, a sample's logits differ by {off:.0e} of the largest")
        running.append(float(np.mean(together.argmax(axis=1) == labels)))
        logits = [tested.forward(sample[None], training=True) for sample in x[:20]]
        checks(bool(np.ptp(logits, axis=0).max() == 0), "a batch of one says more than beta")
        rng = np.random.default_rng(seed)
        for size in TEST_BATCHES:
            # Two orders: the same samples, but other companions.
            orders = [rng.permutation(len(x)) for _ in range(2)]
            first, second = (answers(tested, x, size, order) for order in orders)
            found[size].append((float(np.mean(first == labels)), float(np.mean(first != second))))
    rows: list[tuple[str, str, str]] = []
    for size, pairs in found.items():
        accuracies, changed = np.array(pairs).T
        rows.append((f"batch of {size}", percent(accuracies), percent(changed)))
    rows.append(("population, one at a time or all", percent(running), "0.0 %"))
    title = "At test time: the answers that the statistics of a test batch give"
    table(("statistics", "test accuracy", "changed by other companions"), rows, title=title)


def report_gathering(trained: list[tuple[Network, Data]]) -> None:
    """Re-estimate with fixed weights, over batch sizes: averages of batches against all merged."""
    rows = []
    kinds = {
        "average of biased variances": {"running_mode": "cumulative", "correction": 0},
        "average of unbiased variances": {"running_mode": "cumulative", "correction": 1},
        "population": {"running_mode": "population", "correction": 0},
    }
    for size in (2, 5, 60):
        for name, kind in kinds.items():
            found = []
            for network, data in trained:
                norms = network.of_type(bnfast.BatchNorm)
                empty = [bnfast.BatchNorm(norm.num_features, **kind) for norm in norms]
                tested = replaced(network, empty)
                seen = full_batches(data.x_train, size)  # a last one of 1 has no unbiased variance
                for batch in seen:
                    tested.forward(batch, training=True)
                errors = squared_errors(tested, true_moments(network, np.concatenate(seen)))
                found.append((distance(errors), evaluate(tested, data.x_test, data.y_test)[1]))
            off, accuracy = np.array(found).T
            rows.append((name, f"{size}", mean_spread(off, 3), percent(accuracy)))
    title = "One pass over the training samples with fixed weights, in batches of m"
    table(("statistics", "m", "distance", "test accuracy"), rows, title=title)


def report_layers(trained: list[tuple[Network, Data]]) -> None:
    """Tell how far a single batch is off in each layer."""
    found = []
    for network, data in trained:
        _, errors = by_batches(network, data, true_moments(network, data.x_train))
        found.append(np.sqrt(errors))
    rows = [
        (f"layer {layer + 1}", *(mean_spread(part, 3) for part in errors.T))
        for layer, errors in enumerate(np.swapaxes(found, 0, 1))  # layers, seeds, 2
    ]
    title = f"{BATCHES.capitalize()} after training: root mean square error in true deviations"
    table(("", "mean", "deviation"), rows, title=title)


def lecture(checks: Checks) -> None:
    """Train and watch, then test."""
    full = {"seeds": 5, "steps": 800, "rate": 1.0, "draws": 2000}
    quick = {"seeds": 1, "steps": 200, "draws": 200}
    options = arguments("Statistics for batch norm at test time.", quick=quick, full=full)
    trained = report_steps(options, checks)
    report_layers(trained)
    report_test_batches(options, trained, checks)
    report_gathering(trained)
    report_variances(options, trained, checks)


if __name__ == "__main__":
    run(lecture)
