"""Train sigmoid networks on handwritten digits, and draw what batch norm and dropout change.

    pip install bnfast scikit-learn matplotlib tqdm
    python examples/train_digits.py                 # under a minute; writes digits_output/*.png
    python examples/train_digits.py --quick         # a few seconds, for continuous integration

Four networks are trained: without and with bnfast.BatchNorm, at a moderate and at a high learning
rate; all else (data, initial weights, order of the samples) is the same. Then smaller networks are
trained on few digits with dropout at several rates (digits_dropout.py). Prints two tables, writes
curves.png, preactivations.png and dropout.png, and exits with 1 if a network did not learn that
should have. docs/digits.md explains what the pictures show.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from digits_dropout import compare_rates, print_dropout_table
from digits_plots import plot_curves, plot_dropout, plot_preactivations
from lectures.lab import Data, digits
from lectures.networks import Linear, Network, batches, build_network, evaluate, glorot, train_step
from lectures.optimisers import SGD
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import bnfast

BATCH_SIZE = 60  # samples
QUICK_EPOCHS = 10
HIDDEN_UNITS = 100
TARGET = 0.90  # test accuracy that "epochs to 90 %" waits for
MUST_REACH = 0.93  # best test accuracy below which a run with batch norm counts as failed
MUST_REACH_FEW = 0.75  # the same, in the mean, for the networks that learn from few digits
SATURATED = 4.0  # |z| beyond which the sigmoid's slope is below 7 % of its largest
PERCENTILES = (5, 25, 50, 75, 95)
SNAPSHOTS_PER_EPOCH = 4  # how often the pre-activations are recorded


@dataclass
class Run:
    """What one training run is and what was seen of it; arrays over epochs or snapshots."""

    batch_norm: bool
    learning_rate: float
    train_loss: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0  # training steps only
    snapshot_epochs: list[float] = field(default_factory=list)
    percentiles: list[np.ndarray] = field(default_factory=list)  # (layer, percentile) each
    saturated: list[list[float]] = field(default_factory=list)  # fraction, per layer
    spread: list[list[float]] = field(default_factory=list)  # over the samples, per layer

    @property
    def epochs_to_target(self) -> int | None:
        """The first epoch after which the test accuracy was at least TARGET."""
        reached = np.flatnonzero(np.array(self.test_accuracy) >= TARGET)
        return int(reached[0]) + 1 if len(reached) else None

    def record_preactivations(self, epoch: float, layers: list[np.ndarray]) -> None:
        """Summarise what the sigmoids of each hidden layer saw in the current mini-batch."""
        self.snapshot_epochs.append(epoch)
        self.percentiles.append(np.array([np.percentile(z, PERCENTILES) for z in layers]))
        self.saturated.append([float(np.mean(np.abs(z) > SATURATED)) for z in layers])
        # How much a unit tells the samples apart; pooled percentiles cannot show that.
        self.spread.append([float(np.median(z.std(axis=0))) for z in layers])


def train(run: Run, network: Network, data: Data, *, epochs: int, seed: int) -> None:
    """Train by mini-batch SGD and write what happens into `run`."""
    rng = np.random.default_rng(seed)
    steps = len(data.x_train) // BATCH_SIZE
    snapshot_steps = set(np.linspace(0, steps, SNAPSHOTS_PER_EPOCH, False).astype(int))
    optimiser = SGD(run.learning_rate)
    name = f"{'with' if run.batch_norm else 'without'} batch norm, rate {run.learning_rate:g}"
    progress = tqdm(range(epochs), desc=f"{name:32}", unit="epoch")
    for epoch in progress:
        for step, batch in enumerate(batches(len(data.x_train), BATCH_SIZE, rng)):
            began = time.perf_counter()
            train_step(network, optimiser, data.x_train[batch], data.y_train[batch])
            run.seconds += time.perf_counter() - began
            if step in snapshot_steps:
                run.record_preactivations(epoch + step / steps, network.preactivations())

        loss, accuracy = evaluate(network, data.x_train, data.y_train)
        run.train_loss.append(loss)
        run.train_accuracy.append(accuracy)
        loss, accuracy = evaluate(network, data.x_test, data.y_test)
        run.test_loss.append(loss)
        run.test_accuracy.append(accuracy)
        progress.set_postfix_str(f"test accuracy {100 * accuracy:.1f} %", refresh=False)


def show_that_bias_cancels(data: Data, seed: int) -> bool:
    """Put a bias in front of batch norm: outputs stay the same and its gradient is zero."""
    rng = np.random.default_rng(seed)
    x = data.x_train[:BATCH_SIZE]
    weight = glorot(rng, HIDDEN_UNITS, x.shape[1])
    dy = rng.standard_normal((BATCH_SIZE, HIDDEN_UNITS), np.float32)

    plain = Linear(weight, bias=False)
    biased = Linear(weight, bias=True)
    biased.bias = rng.standard_normal(HIDDEN_UNITS, np.float32)
    bn_plain, bn_biased = bnfast.BatchNorm(HIDDEN_UNITS), bnfast.BatchNorm(HIDDEN_UNITS)

    y_plain, y_biased = bn_plain(plain(x)), bn_biased(biased(x))
    biased.backward(bn_biased.backward(dy).dx)
    y_size, y_difference = np.abs(y_plain).max(), np.abs(y_biased - y_plain).max()
    # The gradient of a bias is the sum of what reaches it, which without batch norm would be dy.
    usual_gradient = np.abs(dy.sum(axis=0)).max()
    bias_gradient = np.abs(np.asarray(biased.dbias)).max()

    print("A bias before batch norm cancels: y = BN(W a + b) against BN(W a), in float32")
    print(f"  max |y|                        {y_size:8.1e}")
    print(f"  max |y difference|             {y_difference:8.1e}  (rounding)")
    print(f"  max |gradient of b| without BN {usual_gradient:8.1e}")
    print(f"  max |gradient of b| with BN    {bias_gradient:8.1e}  (rounding)")
    # float32 carries 1.2e-7; sums over a batch of 60 lose at most two more digits.
    return bool(y_difference < 1e-5 * y_size and bias_gradient < 1e-5 * usual_gradient)


def print_table(runs: list[Run]) -> None:
    """Print one line a run; the accuracy is that on test data after the last epoch."""
    print("\nlearning  batch      test  training   epochs  training")
    print("    rate   norm  accuracy      loss  to 90 %      time")
    for run in runs:
        print(
            f"{run.learning_rate:8g}  {'yes' if run.batch_norm else 'no':>5}  "
            f"{100 * run.test_accuracy[-1]:6.1f} %  {run.train_loss[-1]:8.4f}  "
            f"{run.epochs_to_target or 'never':>7}  {run.seconds:6.2f} s"
        )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train sigmoid networks on handwritten digits: batch norm and dropout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_EPOCHS} epochs, 1 repeat")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and sample order")
    parser.add_argument("--layers", type=int, default=4, help="hidden layers")
    parser.add_argument("--rates", type=float, nargs=2, default=(0.3, 3.0), help="learning rates")
    parser.add_argument(
        "--repeats", type=int, default=10, help="seeds to average over in the dropout part"
    )
    parser.add_argument(
        "--random-labels", type=float, default=0.1, help="share of them in the dropout part"
    )
    parser.add_argument("--out", type=Path, default=Path("digits_output"), help="for pictures")
    options = parser.parse_args(arguments)
    if options.quick:
        options.epochs, options.repeats = QUICK_EPOCHS, 1
    if min(options.epochs, options.layers, options.repeats) < 1 or options.seed < 0:
        parser.error("--epochs, --layers and --repeats must be at least 1, --seed at least 0")
    if not 0 <= options.random_labels <= 1:
        parser.error("--random-labels must lie in [0, 1]")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Train all networks, print and draw the results; return the exit status."""
    options = parse_arguments(arguments)
    data = digits(options.seed)
    cancels = show_that_bias_cancels(data, options.seed)

    sizes = [data.x_train.shape[1], *[HIDDEN_UNITS] * options.layers, 10]
    runs = [Run(batch_norm, rate) for rate in options.rates for batch_norm in (False, True)]
    for run in runs:
        rng = np.random.default_rng(options.seed)  # the same initial weights in every run
        network = build_network(sizes, rng=rng, norm=bnfast.BatchNorm if run.batch_norm else None)
        train(run, network, data, epochs=options.epochs, seed=options.seed)
    print_table(runs)

    subsets = [digits(options.seed + k) for k in range(options.repeats)]
    trials = compare_rates(subsets, options.random_labels, seed=options.seed)
    print_dropout_table(trials)

    options.out.mkdir(parents=True, exist_ok=True)
    names = [options.out / f"{name}.png" for name in ("curves", "preactivations", "dropout")]
    plot_curves(runs, names[0], target=TARGET)
    plot_preactivations(runs, names[1], saturated=SATURATED)
    plot_dropout(trials, names[2])
    print(f"\nPictures: {', '.join(map(str, names))}")

    failures = [
        f"with batch norm at learning rate {run.learning_rate:g} the best test accuracy is "
        f"{100 * max(run.test_accuracy):.1f} %, expected at least {100 * MUST_REACH:.0f} %"
        for run in runs
        if run.batch_norm and max(run.test_accuracy) < MUST_REACH
    ]
    failures += [
        f"at dropout rate {trial.rate:g} the mean test accuracy is "
        f"{100 * np.mean(trial.test):.1f} %, expected at least {100 * MUST_REACH_FEW:.0f} %"
        for trial in trials
        if np.mean(trial.test) < MUST_REACH_FEW
    ]
    if not cancels:
        failures.append("a bias before batch norm did not cancel")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    # Matrices this small gain nothing from more BLAS threads, and lose much on a busy machine.
    with threadpool_limits(limits=1, user_api="blas"):
        sys.exit(main())
