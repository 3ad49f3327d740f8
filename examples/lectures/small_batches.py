"""Where batch norm fails, small batches and batches that are not alike, and what helps.

    python examples/lectures/small_batches.py          # three minutes; pictures in lectures_output/
    python examples/lectures/small_batches.py --quick  # a few seconds

Every step takes the gradient over the same 60 samples, in micro-batches. Networks differ only in
which samples are normalised together. docs/lectures/small_batches.md says what comes out.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from lab import (
    PALETTE,
    WITH,
    WITHOUT,
    Checks,
    Data,
    arguments,
    digits,
    new_figure,
    percent,
    plot_band,
    run,
    save,
    table,
)
from micro_batches import Gradients, accumulate, accumulate_merged
from networks import Network, Relu, batches, build_network, evaluate, reestimated
from optimisers import SGD
from tqdm import tqdm

import bnfast

STEP_SIZE = 60  # samples of a step, whatever the micro-batches
SIZES = (64, 100, 100, 100, 10)  # features at each step: three hidden layers
GROUPS = 10  # of group norm, 10 units each
MICRO_SIZES = (1, 2, 3, 4, 5, 10, 20, 60)  # samples
BATCH_NORM, MERGED = "batch norm", "merged moments"
FROZEN = FROZEN_ONCE, REFROZEN = "frozen at the start", "frozen every epoch"
NORMS: dict[str, Callable[[int], Any] | None] = {  # each looks at one sample alone
    "group norm": partial(bnfast.GroupNorm, GROUPS),
    "layer norm": bnfast.LayerNorm,
    "no norm": None,
}
Arrange = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def mixed(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave the samples in their random order."""
    return x, labels


def by_class(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort by class, so that a micro-batch of six has mostly one class or two."""
    order = np.argsort(labels, kind="stable")
    return x[order], labels[order]


def by_source(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Invert the second half: what was darker than the mean grey is as much brighter."""
    half = len(x) // 2
    return np.concatenate([x[:half], -x[half:]]), labels


def sources_mixed(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do the same, then put the two halves into each other: each micro-batch has both sources."""
    x, labels = by_source(x, labels)
    order = np.argsort(np.arange(len(x)) % (len(x) // 2), kind="stable")
    return x[order], labels[order]


@dataclass(frozen=True)
class Setting:
    """How the samples of a step are put into micro-batches."""

    size: int  # samples of a micro-batch
    arrange: Arrange = mixed


SETTINGS = {  # each control before the case that it stands beside
    "6, classes mixed": Setting(6),
    "6, sorted by class": Setting(6, by_class),
    "30, two sources mixed": Setting(30, sources_mixed),
    "30, one source each": Setting(30, by_source),
}


def accumulator(method: str) -> Callable[..., Gradients]:
    """Return what adds the gradients of micro-batches up."""
    if method == MERGED:
        return accumulate_merged
    return partial(accumulate, training=method not in FROZEN)


def accuracy(
    network: Network, x: np.ndarray, labels: np.ndarray, setting: Setting | None = None
) -> float:
    """Return the accuracy in test mode, or with `setting` in training mode, batched as there."""
    if setting is None:
        return evaluate(network, x, labels)[1]
    network = copy.deepcopy(network)  # the running statistics shall not learn from test samples
    right, counted = 0, len(x) - len(x) % STEP_SIZE
    for start in range(0, counted, STEP_SIZE):
        step = slice(start, start + STEP_SIZE)
        arranged, targets = setting.arrange(x[step], labels[step])
        for part in np.split(np.arange(STEP_SIZE), range(setting.size, STEP_SIZE, setting.size)):
            given = network.forward(arranged[part], training=True).argmax(axis=1)
            right += int(np.sum(given == targets[part]))
    return right / counted


def train(
    network: Network,
    data: Data,
    rng: np.random.Generator,
    method: str,
    setting: Setting,
    options: argparse.Namespace,
) -> Network:
    """Return the network, trained by one method."""
    optimiser = SGD(options.rate)
    # What looks at each sample alone has the same gradient, however its samples are batched.
    size = STEP_SIZE if method in (*NORMS, *FROZEN) else setting.size
    for _ in range(options.epochs):
        if method == REFROZEN:
            network = reestimated(network, setting.arrange(data.x_train, data.y_train)[0])
        for batch in batches(len(data.x_train), STEP_SIZE, rng):
            x, labels = setting.arrange(data.x_train[batch], data.y_train[batch])
            optimiser(iter(accumulator(method)(network, x, labels, size)))
    return network


def train_and_test(
    options: argparse.Namespace, data: Data, seed: int, method: str, setting: Setting
) -> dict[str, float]:
    """Train from the start; return the accuracy in test mode, and those of batch norm's others."""
    rng = np.random.default_rng(seed)
    norm = NORMS.get(method, bnfast.BatchNorm)
    network = build_network(SIZES, rng=rng, norm=norm, activation=Relu)
    seen, _ = setting.arrange(data.x_train, data.y_train)
    if method == FROZEN_ONCE:
        network = reestimated(network, seen)
    network = train(network, data, rng, method, setting, options)
    x, labels = setting.arrange(data.x_test, data.y_test)
    found = {"test": accuracy(network, x, labels)}
    if method == BATCH_NORM:
        found["re-estimated"] = accuracy(reestimated(network, seen), x, labels)
        found["training mode"] = accuracy(network, data.x_test, data.y_test, setting)
        found["training mode, training samples"] = accuracy(
            network, data.x_train, data.y_train, setting
        )
    return found


def report_gradients(checks: Checks) -> None:
    """Compare the gradient of micro-batches with that of the whole batch, in float64."""
    data, rng = digits(0), np.random.default_rng(0)
    x, labels = data.x_train[:STEP_SIZE].astype(np.float64), data.y_train[:STEP_SIZE]
    kinds = {BATCH_NORM: bnfast.BatchNorm, **NORMS}
    rows = []
    for method in (BATCH_NORM, MERGED, FROZEN_ONCE, *NORMS):
        norm = kinds.get(method, bnfast.BatchNorm)
        norm = norm and partial(norm, dtype=np.float64)
        network = build_network(SIZES, rng=rng, norm=norm, activation=Relu, dtype=np.float64)
        for parameter, _ in accumulate(network, x, labels, STEP_SIZE):
            parameter += rng.normal(0.0, 0.1, parameter.shape)  # gamma is not 1, beta is not 0
        whole = flat(accumulate(network, x, labels, STEP_SIZE, training=method not in FROZEN))
        cells = []
        for size in MICRO_SIZES:
            off = flat(accumulator(method)(network, x, labels, size)) - whole
            error = float(np.linalg.norm(off) / np.linalg.norm(whole))
            cells.append(f"{error:.2f}" if error > 1e-3 else f"{error:.0e}")
            exact = method != BATCH_NORM or size == STEP_SIZE
            checks(
                error < 1e-10 if exact else error > 0.01,
                f"{method}: micro-batches of {size} have a gradient that is off by {error:.0e}",
            )
        rows.append((method, *cells))
        if method == BATCH_NORM:
            weights = [g for p, g in accumulate(network, x, labels, 1)[:-2] if p.ndim == 2]
            checks(not any(g.any() for g in weights), "a batch of one moves the hidden weights")
    title = (
        "Gradient of micro-batches of m against that of the batch of 60, relative error, float64"
    )
    table(("", *(f"m = {size}" for size in MICRO_SIZES)), rows, title=title)


def check_gain(options: argparse.Namespace, checks: Checks, gain: float, what: str) -> None:
    """Check that a method is better; with --quick only that it is not far worse."""
    least = -0.1 if options.quick else 0.02  # one seed and two epochs prove little
    checks(bool(gain > least), f"{what} gain {100 * gain:.1f} % only")


def flat(gradients: Gradients) -> np.ndarray:
    """Return all gradients in one row."""
    return np.concatenate([gradient.ravel() for _, gradient in gradients])


def report_sizes(options: argparse.Namespace, checks: Checks) -> None:
    """Train with micro-batches of every size, and draw test accuracy over them."""
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in MICRO_SIZES}
    others: dict[str, list[float]] = {method: [] for method in (MERGED, *FROZEN, *NORMS)}
    for seed in tqdm(range(options.seeds), desc="small batches", unit="seed"):
        data = digits(seed)
        for size, found in runs.items():
            found.append(train_and_test(options, data, seed, BATCH_NORM, Setting(size)))
        for method, accuracies in others.items():
            accuracies.append(train_and_test(options, data, seed, method, Setting(2))["test"])
    modes = {"test": "test mode", "re-estimated": "re-estimated", "training mode": "training mode"}
    values = {mode: np.array([[f[mode] for f in runs[m]] for m in MICRO_SIZES]) for mode in modes}
    rows = [
        (f"batch norm, m = {size}", *(percent(values[mode][index]) for mode in modes))
        for index, size in enumerate(MICRO_SIZES)
    ]
    rows += [
        (f"{method}, any m", percent(accuracies), "", "") for method, accuracies in others.items()
    ]
    title = f"Accuracy on test samples after {options.epochs} epochs"
    table(("", *modes.values()), rows, title=title)
    highest = values["test"][0].max()
    checks(bool(highest < 0.4), f"batch norm over single samples learns: {100 * highest:.1f} %")
    for method, accuracies in others.items():
        lowest = 0.5 if method == FROZEN_ONCE else 0.8
        checks(min(accuracies) > lowest, f"{method} reaches {100 * min(accuracies):.1f} % only")
    figure, axes = new_figure(1, 2, width=11.0, height=4.2)
    flat_colours = (*PALETTE[2:5], "k", "0.45", "0.75")
    for axis in axes[0]:
        for colour, (mode, label) in zip((WITH, "#56B4E9", WITHOUT), modes.items(), strict=True):
            shown = 100 * values[mode].T
            plot_band(axis, MICRO_SIZES, shown, colour, f"batch norm, {label}")
        for colour, (method, accuracies) in zip(flat_colours, others.items(), strict=True):
            axis.axhline(100 * np.mean(accuracies), color=colour, linestyle="--", label=method)
        axis.set(xscale="log", xticks=MICRO_SIZES, xlabel="Samples normalised together, m")
        axis.set_xticks(MICRO_SIZES, [str(size) for size in MICRO_SIZES])
        axis.minorticks_off()
    axes[0, 0].set(ylabel="Test accuracy (%)", ylim=(0, 102), title="All")
    axes[0, 1].set(ylabel="Test accuracy (%)", ylim=(90, 100), title="The same from 90 %")
    axes[0, 1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(
        figure,
        options.out,
        "small_batches_sizes",
        title="Batch norm over few samples",
        caption=f"Digits, after {options.epochs} epochs; every step has {STEP_SIZE} samples, in "
        "micro-batches of m. Lines: means of the seeds; bands: from the lowest to the highest.\n"
        "Dashed: what does not depend on m.",
    )


def report_settings(options: argparse.Namespace, checks: Checks) -> None:
    """Train on micro-batches that are alike and on ones that are not, by every method."""
    methods = (BATCH_NORM, MERGED, *FROZEN, *NORMS)
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in tqdm(range(options.seeds), desc="unlike batches", unit="seed"):
        data = digits(seed)
        for name, setting in SETTINGS.items():
            for method in methods:
                found = train_and_test(options, data, seed, method, setting)
                runs.setdefault((name, method), []).append(found)
    tests = {case: np.array([found["test"] for found in seen]) for case, seen in runs.items()}
    rows = [(m, *(percent(tests[name, m]) for name in SETTINGS)) for m in methods]
    for mode in ("training mode, training samples", "training mode", "re-estimated"):
        cells = [percent([f[mode] for f in runs[name, BATCH_NORM]]) for name in SETTINGS]
        rows.insert(1, (f"{BATCH_NORM}, {mode}", *cells))
    title = f"Accuracy on test samples after {options.epochs} epochs, in test mode if not said"
    table(("micro-batches of", *SETTINGS), rows, title=title)
    figure, axes = new_figure(1, 2, sharey=True, height=3.8)
    names = list(SETTINGS)
    for axis, pair in zip(axes[0], (names[:2], names[2:]), strict=True):
        for name, colour, marker in zip(pair, (WITH, WITHOUT), "os", strict=True):
            heights = np.arange(len(methods)) + (0.15 if colour == WITHOUT else -0.15)
            values = 100 * np.array([tests[name, method] for method in methods])
            axis.plot(values, heights, marker, color=colour, alpha=0.35)
            axis.plot(values.mean(axis=1), heights, marker, color=colour, markersize=9, label=name)
        axis.set(xlabel="Test accuracy (%)", yticks=range(len(methods)), yticklabels=methods)
        axis.legend(fontsize=8, loc="lower left")
    axes[0, 0].invert_yaxis()
    save(
        figure,
        options.out,
        "small_batches_unlike",
        title="Micro-batches that are alike, and ones that are not",
        caption=f"Digits, after {options.epochs} epochs, in test mode. Large: means; small: the "
        "seeds. Both cases of a picture have the same samples in a step.",
    )
    for control, name in (names[:2], names[2:]):
        failing = tests[name, BATCH_NORM].mean()
        for method in (MERGED, REFROZEN, *NORMS):
            mean = tests[name, method].mean()
            check_gain(options, checks, mean - failing, f"{name}: by {method} we")
            # Each has the same gradients in both cases, up to rounding.
            off = abs(mean - tests[control, method].mean())
            checks(bool(off < 0.05), f"{name}: {method} is {100 * off:.1f} % off {control}")


def report_sources(options: argparse.Namespace, checks: Checks) -> None:
    """Train on one source a micro-batch, and test with statistics of both sources and of each."""
    found: dict[str, list[float]] = {}
    setting = SETTINGS["30, one source each"]
    for seed in range(options.seeds):
        data, rng = digits(seed), np.random.default_rng(seed)
        network = build_network(SIZES, rng=rng, norm=bnfast.BatchNorm, activation=Relu)
        network = train(network, data, rng, BATCH_NORM, setting, options)
        x, labels = setting.arrange(data.x_test, data.y_test)
        half = len(x) // 2
        both = np.concatenate([data.x_train, -data.x_train])
        own = [
            accuracy(reestimated(network, seen), x[part], labels[part])
            for seen, part in ((data.x_train, slice(half)), (-data.x_train, slice(half, None)))
        ]
        average = copy.deepcopy(network)
        for norm in average.of_type(bnfast.BatchNorm):
            norm.running = bnfast.RunningStats(norm.num_features, mode="cumulative")
        for seen in np.split(both, 2):
            average.forward(seen, training=True)
        for name, result in {
            "running, momentum 0.1": accuracy(network, x, labels),
            "average of the sources' variances": accuracy(average, x, labels),
            "both sources in one batch, merged": accuracy(reestimated(network, both), x, labels),
            "those of the sample's own source": float(np.mean(own)),
        }.items():
            found.setdefault(name, []).append(result)
    rows = [(name, percent(values)) for name, values in found.items()]
    title = "Trained on one source a micro-batch: accuracy by the statistics at test time"
    table(("mean and variance", "test accuracy"), rows, title=title)
    gain = np.mean(found["those of the sample's own source"])
    gain -= np.mean(found["running, momentum 0.1"])
    check_gain(options, checks, gain, "a source's own statistics")


def rotated(data: Data) -> Data:
    """Return the digits turned by a quarter."""
    x_train, x_test = (
        np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
        for x in (data.x_train, data.x_test)
    )
    return Data(x_train, x_test, data.y_train, data.y_test)


def report_fine_tuning(options: argparse.Namespace, checks: Checks) -> None:
    """Train on upright digits in batches of 60, then go on with turned ones, two at a time."""
    cases = {"batch of 60": (BATCH_NORM, 60), "micro-batches of 2": (BATCH_NORM, 2)}
    cases |= {f"micro-batches of 2, {method}": (method, 2) for method in FROZEN}
    rates = (options.rate, options.rate / 10)
    found: dict[tuple[str, float], list[float]] = {}
    for seed in tqdm(range(options.seeds), desc="fine-tuning", unit="seed"):
        data, rng = digits(seed), np.random.default_rng(seed)
        network = build_network(SIZES, rng=rng, norm=bnfast.BatchNorm, activation=Relu)
        network = train(network, data, rng, BATCH_NORM, Setting(60), options)
        turned = rotated(data)
        for rate, (name, (method, size)) in product(rates, cases.items()):
            tuned = copy.deepcopy(network)  # with its running statistics: those are frozen
            slower = argparse.Namespace(rate=rate, epochs=options.epochs)
            with np.errstate(all="ignore"):  # one of them may diverge
                tuned = train(tuned, turned, rng, method, Setting(size), slower)
                result = accuracy(tuned, turned.x_test, turned.y_test)
            found.setdefault((name, rate), []).append(result)
        found.setdefault(("before", 0), []).append(accuracy(network, turned.x_test, turned.y_test))
    rows = [(name, *(percent(found[name, rate]) for rate in rates)) for name in cases]
    rows.insert(0, ("before", *2 * [percent(found["before", 0])]))
    title = f"Fine-tuning on turned digits for {options.epochs} epochs: accuracy on turned digits"
    table(("", *(f"rate {rate:g}" for rate in rates)), rows, title=title)
    for rate in rates:
        gain = np.mean(found[f"micro-batches of 2, {REFROZEN}", rate])
        gain -= np.mean(found["micro-batches of 2", rate])
        check_gain(options, checks, gain, f"at rate {rate:g}, frozen statistics")


def lecture(checks: Checks) -> None:
    """Compare gradients, then train."""
    full = {"seeds": 5, "epochs": 10, "rate": 0.3}
    quick = {"seeds": 1, "epochs": 2}
    options = arguments("Where batch norm fails, and what helps.", quick=quick, full=full)
    report_gradients(checks)
    report_sizes(options, checks)
    report_settings(options, checks)
    report_sources(options, checks)
    report_fine_tuning(options, checks)


if __name__ == "__main__":
    run(lecture)
