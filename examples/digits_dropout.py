"""The dropout part of train_digits.py: few digits, some of them mislabelled, a wide network.

A network with many more weights than it has samples learns the wrong labels by heart, too, and pays
for it on new digits. How much it does is the generalisation gap: training minus test accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from lectures.networks import build_network, evaluate, train_epoch
from lectures.optimisers import SGD
from tqdm import tqdm

import bnfast

if TYPE_CHECKING:
    from lectures.lab import Data

RATES = (0.0, 0.2, 0.5)
SAMPLES = 300
EPOCHS = 200  # enough for a training accuracy of 99 % at any rate
BATCH_SIZE = 30  # samples
HIDDEN_UNITS = 200
LEARNING_RATE = 2.0


@dataclass
class Trial:
    """One setting: its accuracies after training, one entry a repeat."""

    batch_norm: bool
    rate: float
    train: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)

    @property
    def gap(self) -> list[float]:
        """Training minus test accuracy."""
        return [train - test for train, test in zip(self.train, self.test, strict=True)]


def train_once(trial: Trial, data: Data, random_labels: float, *, seed: int) -> None:
    """Train one network on a part of the training data; enter its accuracies."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(data.x_train))[:SAMPLES]
    x, labels = data.x_train[chosen], data.y_train[chosen].copy()
    wrong = round(random_labels * SAMPLES)
    labels[:wrong] = rng.integers(0, 10, wrong)
    sizes = [x.shape[1], HIDDEN_UNITS, 10]
    weights = np.random.default_rng(seed)  # the same initial weights for every trial
    norm = bnfast.BatchNorm if trial.batch_norm else None
    network = build_network(sizes, rng=weights, norm=norm, dropout=trial.rate)
    optimiser = SGD(LEARNING_RATE)
    for _ in range(EPOCHS):
        train_epoch(network, optimiser, x, labels, batch_size=BATCH_SIZE, rng=rng)
    trial.train.append(evaluate(network, x, labels)[1])
    trial.test.append(evaluate(network, data.x_test, data.y_test)[1])


def compare_rates(splits: list[Data], random_labels: float, *, seed: int) -> list[Trial]:
    """Train at every rate, without and with batch norm, once for each split of the data."""
    trials = [Trial(batch_norm, rate) for batch_norm in (False, True) for rate in RATES]
    for k, data in enumerate(tqdm(splits, desc=f"{'dropout':32}", unit="repeat")):
        for trial in trials:
            train_once(trial, data, random_labels, seed=seed + k)
    return trials


def print_dropout_table(trials: list[Trial]) -> None:
    """Print one line a trial: means over the repeats, and the standard error of the gap."""
    repeats = len(trials[0].test)
    print(f"\nmeans over {repeats} seeds, {SAMPLES} training digits")
    print(" batch  dropout  training      test  generalisation")
    print("  norm     rate  accuracy  accuracy       gap, in %")
    for trial in trials:
        error = 100 * np.std(trial.gap) / np.sqrt(repeats)
        print(
            f"{'yes' if trial.batch_norm else 'no':>6}  {trial.rate:7g}  "
            f"{100 * np.mean(trial.train):6.1f} %  {100 * np.mean(trial.test):6.1f} %  "
            f"{100 * np.mean(trial.gap):8.1f} ± {error:.1f}"
        )
