"""Train a small Transformer on handwritten digits, by layer norm and by RMS norm.

    pip install bnfast scikit-learn matplotlib tqdm
    python examples/digits_transformer.py           # under a minute; writes one picture
    python examples/digits_transformer.py --quick   # a few seconds, for continuous integration

First compares the gradients of both Transformers with differences of the loss, in float64. Then
trains them and, for comparison, the batch norm network of train_digits.py, each from several seeds,
prints a table and writes digits_output/transformer.png. Exits with 1 if a gradient is wrong or a
network did not learn. docs/transformer.md explains what the picture shows.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from digits_plots import plot_transformer
from lectures.lab import Data, digits
from lectures.networks import (
    Trainable,
    build_network,
    evaluate,
    gradient_errors,
    train_epoch,
)
from lectures.optimisers import SGD
from threadpoolctl import threadpool_limits
from tqdm import tqdm
from train_digits import BATCH_SIZE, HIDDEN_UNITS
from transformer_network import CLASSES, Transformer

import bnfast

QUICK_EPOCHS = 8
TARGET = 0.95  # mean test accuracy that "epochs to 95 %" waits for
MUST_REACH = 0.90  # mean test accuracy at the end below which a network counts as failed
NORMS = {"layer norm": bnfast.layer_norm, "RMS norm": bnfast.rms_norm}
BATCH_NORM = "batch norm"
BATCH_NORM_RATE = 0.3  # learning rate: the better one of train_digits.py
ALLOWED = 1e-6  # relative error of a gradient


@dataclass
class Curves:
    """What was seen of one kind of network; a list over the epochs for each seed."""

    name: str
    parameters: int = 0  # numbers that are learnt
    train_loss: list[list[float]] = field(default_factory=list)
    test_accuracy: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0  # of all training steps

    @property
    def final_accuracies(self) -> np.ndarray:
        """On test digits after the last epoch, for each seed."""
        return np.array(self.test_accuracy)[:, -1]

    @property
    def epochs_to_target(self) -> int | None:
        """The first epoch after which the mean test accuracy was at least TARGET."""
        reached = np.flatnonzero(np.mean(self.test_accuracy, axis=0) >= TARGET)
        return int(reached[0]) + 1 if len(reached) else None


def check_gradients(data: Data, *, dropout: float) -> bool:
    """Print the errors of both Transformers; return whether all are small."""
    print(f"Gradients against differences of the loss, float64, dropout {dropout:g}:")
    agree = True
    for name in NORMS:
        print(f"  with {name:10}   entries   largest relative error")
        # The masks of dropout depend on seed and step alone, so that the loss is the same function
        # each time it is computed.
        network = Transformer(NORMS[name], seed=0, dropout=dropout, dtype=np.float64)
        images = data.x_train[:8].astype(np.float64)
        for kind, errors in gradient_errors(network, images, data.y_train[:8]).items():
            error = float(np.max(errors))  # a NaN stays one
            print(f"    {kind:13}{len(errors):9}   {error:22.1e}")
            agree = agree and error < ALLOWED
    return agree


def make_network(name: str, data: Data, *, seed: int, dropout: float) -> Trainable:
    """Build a Transformer, or the batch norm network of train_digits.py."""
    if name in NORMS:
        return Transformer(NORMS[name], seed=seed, dropout=dropout)
    sizes = [data.x_train.shape[1], *[HIDDEN_UNITS] * 4, CLASSES]
    return build_network(sizes, rng=np.random.default_rng(seed), norm=bnfast.BatchNorm)


def train(curves: Curves, data: Data, options: argparse.Namespace, *, seed: int) -> None:
    """Train one network and add what happens to `curves`."""
    network = make_network(curves.name, data, seed=seed, dropout=options.dropout)
    learning_rate = options.rate if curves.name in NORMS else BATCH_NORM_RATE
    rng = np.random.default_rng(seed)
    losses, accuracies = [], []
    description = f"{curves.name}, seed {seed}"
    progress = tqdm(range(options.epochs), desc=f"{description:20}", unit="epoch")
    for _ in progress:
        began = time.perf_counter()
        train_epoch(
            network,
            SGD(learning_rate),
            data.x_train,
            data.y_train,
            batch_size=BATCH_SIZE,
            rng=rng,
        )
        curves.seconds += time.perf_counter() - began
        losses.append(evaluate(network, data.x_train, data.y_train)[0])
        accuracies.append(evaluate(network, data.x_test, data.y_test)[1])
        state = f"training loss {losses[-1]:.4f}, test accuracy {100 * accuracies[-1]:.1f} %"
        progress.set_postfix_str(state, refresh=False)
    curves.train_loss.append(losses)
    curves.test_accuracy.append(accuracies)
    curves.parameters = sum(parameter.size for parameter, _ in network.parameters())


def print_table(kinds: list[Curves]) -> None:
    """Print one line a network: means over the seeds, and the accuracy's standard error."""
    seeds = len(kinds[0].test_accuracy)
    print(f"\nmeans over {seeds} seeds, after {len(kinds[0].train_loss[0])} epochs")
    print("             learnt  training          test   epochs  training")
    print("network     numbers      loss      accuracy  to 95 %      time")
    for curves in kinds:
        final = curves.final_accuracies
        error = f"± {100 * final.std(ddof=1) / np.sqrt(seeds):.1f}" if seeds > 1 else ""
        print(
            f"{curves.name:10}{curves.parameters:9,}  {np.mean(curves.train_loss, axis=0)[-1]:8.4f}"
            f"  {100 * final.mean():5.1f} {error:5} %  {curves.epochs_to_target or 'never':>7}"
            f"  {curves.seconds / seeds:6.2f} s"
        )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train a small Transformer on handwritten digits: layer norm and RMS norm.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_EPOCHS} epochs, 1 repeat")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3, help="seeds to average over")
    parser.add_argument("--seed", type=int, default=0, help="the first; of split, weights, masks")
    parser.add_argument("--rate", type=float, default=0.1, help="learning rate of the Transformers")
    parser.add_argument("--dropout", type=float, default=0.1, help="rate, in the Transformers")
    parser.add_argument("--out", type=Path, default=Path("digits_output"), help="for the picture")
    options = parser.parse_args(arguments)
    if options.quick:
        options.epochs, options.repeats = QUICK_EPOCHS, 1
    if min(options.epochs, options.repeats) < 1 or options.seed < 0:
        parser.error("--epochs and --repeats must be at least 1, --seed at least 0")
    if not 0 <= options.dropout < 1:
        parser.error("--dropout must lie in [0, 1)")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Check gradients, train all networks, print and draw; return the exit status."""
    began = time.perf_counter()
    options = parse_arguments(arguments)
    splits = [digits(options.seed + k) for k in range(options.repeats)]
    gradients_agree = check_gradients(splits[0], dropout=options.dropout)

    kinds = [Curves(name) for name in (*NORMS, BATCH_NORM)]
    for curves in kinds:
        for k, data in enumerate(splits):
            train(curves, data, options, seed=options.seed + k)
    print_table(kinds)

    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / "transformer.png"
    plot_transformer(kinds, picture)
    print(f"\nPicture: {picture}; {time.perf_counter() - began:.0f} s in all")

    failures = [
        f"with {curves.name} the mean test accuracy is "
        f"{100 * curves.final_accuracies.mean():.1f} %, expected at least {100 * MUST_REACH:.0f} %"
        for curves in kinds
        if curves.final_accuracies.mean() < MUST_REACH
    ]
    if not gradients_agree:
        failures.append(f"a gradient is wrong by {ALLOWED:g} or more")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    # Arrays this small gain nothing from more threads, and lose much on a busy machine.
    with threadpool_limits(limits=1, user_api="blas"), bnfast.num_threads(1):
        sys.exit(main())
