"""Over which axes a norm takes its expectation: batch, layer, instance and group norm compared.

    python examples/lectures/axes.py            # three minutes; pictures in lectures_output/
    python examples/lectures/axes.py --quick    # a few seconds

Compares each norm's statistics with NumPy means over its axes, then trains the same two networks
with each norm at several batch sizes, then asks them about digits of another brightness and
contrast. docs/lectures/axes.md says what the pictures show.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from lab import (
    PALETTE,
    Checks,
    Data,
    arguments,
    digits,
    new_figure,
    percent,
    run,
    save,
    table,
)
from networks import (
    MakeNorm,
    Network,
    Relu,
    build_conv_network,
    build_network,
    evaluate,
    train_epoch,
)
from optimisers import Adam
from tqdm import tqdm

import bnfast

GROUPS = 4  # of group norm
CHANNELS = (1, 8, 8, 16, 16)  # of the images and of each convolution
SIZES = (64, 100, 100, 100, 10)  # features at each step: three hidden layers
LEARNING_RATE = 0.002  # at batches of 32, and as the square root of the batch size at others
BATCH_SIZES = (4, 32, 128)  # samples
TESTS = {"alone": "tested one by one", "changed": "other brightness and contrast"}


class WholeBatchNorm:
    """Expectation over batch and features: one mean and one variance for all of (N, C).

    It is group norm of one group, when the mini-batch is shown to it as a single sample with C
    channels and N positions. It has no running statistics: at test it uses those of the test batch.
    """

    def __init__(self, features: int) -> None:
        self.norm = bnfast.GroupNorm(1, features)
        self.gamma, self.beta = self.norm.gamma, self.norm.beta
        self.dgamma: np.ndarray | None = None
        self.dbeta: np.ndarray | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.norm(x.T[None])[0].T)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Keep the gradients of gamma and beta; return the gradient of x."""
        gradients = self.norm.backward(dy.T[None])
        self.dgamma, self.dbeta = gradients.dgamma, gradients.dbeta
        return np.asarray(gradients.dx[0].T)


def layer_norm_of_images(channels: int) -> Any:
    """Layer norm over (C, H, W), with gamma and beta a channel: group norm of one group."""
    return bnfast.GroupNorm(1, channels)


CONVOLUTIONAL: dict[str, MakeNorm | None] = {
    "none": None,
    "batch": bnfast.BatchNorm,
    "layer": layer_norm_of_images,
    "instance": bnfast.InstanceNorm,
    "group": partial(bnfast.GroupNorm, GROUPS),
}
DENSE: dict[str, MakeNorm | None] = {
    "none": None,
    "batch": bnfast.BatchNorm,
    "layer": bnfast.LayerNorm,
    "both": WholeBatchNorm,
}
KINDS = {"convolutional": CONVOLUTIONAL, "fully connected": DENSE}
COLOURS = dict(
    zip(("batch", "layer", "group", "instance", "both", "", "none"), PALETTE, strict=True)
)
Runs: TypeAlias = dict[tuple[str, int], list[dict[str, Any]]]  # by norm and batch size, a seed each


def check_axes(checks: Checks, data: Data) -> None:
    """Compare the statistics of each norm with NumPy's over the axes that the table names."""
    rng = np.random.default_rng(0)
    x = np.abs(data.x_train[:32] + rng.normal(0, 0.3, (32, 16, 8, 8)))  # (N, C, H, W), float64
    flat = x[:, :, 0, 0]  # (N, C)
    grouped = x.reshape(32, GROUPS, -1, 8, 8)
    whole = flat.T[None]  # one sample, C channels, N positions
    cases: list[tuple[str, np.ndarray, tuple[int, ...], Any]] = [
        ("batch", x, (0, 2, 3), bnfast.batch_norm(x)),
        ("layer, C H W", x, (1, 2, 3), bnfast.layer_norm(x, axis=(-3, -2, -1))),
        ("instance", x, (2, 3), bnfast.instance_norm(x)),
        (f"group, {GROUPS} groups", grouped, (2, 3, 4), bnfast.group_norm(x, GROUPS)),
        ("batch", flat, (0,), bnfast.batch_norm(flat)),
        ("layer", flat, (1,), bnfast.layer_norm(flat)),
        ("both", flat, (0, 1), bnfast.group_norm(whole, 1)),
    ]
    rows = []
    for name, values, axes, (_, context) in cases:
        mean, variance = values.mean(axis=axes), values.var(axis=axes)
        error = max(
            np.abs(np.squeeze(context.mean) - mean).max(),
            np.abs(np.squeeze(context.var) - variance).max(),
        )
        checks(error < 1e-12, f"statistics of {name} norm are {error:.1e} away from NumPy's")
        rows.append([name, values.shape, axes, mean.shape, mean.size, f"{error:.0e}"])
    table(
        ["norm", "x", "E over axes", "shape of mean", "pairs", "largest difference from NumPy"],
        rows,
        title="Mean and variance, bnfast's against NumPy's, in float64",
    )
    check_relations(checks, x)


def check_relations(checks: Checks, x: np.ndarray) -> None:
    """Show that these norms turn into one another where their axes do."""
    sample, constant = x[:1], np.random.default_rng(1).normal(size=(4, 16, 1, 1))
    instance = bnfast.instance_norm(x)[0]
    layer = bnfast.layer_norm(x, axis=(-3, -2, -1))[0]
    rows = []
    for claim, left, right in [
        ("group norm, one group = layer norm over C, H, W", bnfast.group_norm(x, 1)[0], layer),
        ("group norm, a group a channel = instance norm", bnfast.group_norm(x, 16)[0], instance),
        ("batch norm of one sample = instance norm", bnfast.batch_norm(sample)[0], instance[:1]),
        (
            "instance norm, one position: 0, whatever x is",
            bnfast.instance_norm(constant)[0],
            np.zeros_like(constant),
        ),
        (
            "instance norm of a brighter image of double contrast: the same",
            bnfast.instance_norm(2 * x + 1, eps=0.0)[0],
            bnfast.instance_norm(x, eps=0.0)[0],
        ),
    ]:
        error = np.abs(left - right).max()
        checks(error < 1e-12, f"not so: {claim} ({error:.1e})")
        rows.append([claim, f"{error:.0e}" if error else "0"])
    table(["identity", "largest difference"], rows, title="Where the axes are the same")


def change_images(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each image a brightness and a contrast of its own; pixels lie in about -0.3 .. 0.7."""
    shape = (len(x),) + (1,) * (x.ndim - 1)
    contrast = rng.uniform(0.3, 1.0, shape)
    return np.asarray(contrast * x + rng.uniform(-0.3, 0.3, shape), np.float32)


def one_by_one(network: Network, x: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy when each sample is a test batch of its own."""
    answers = [network.forward(x[k : k + 1], training=False).argmax() for k in range(len(x))]
    return float(np.mean(np.array(answers) == labels))


def train_one(
    network: Network, data: Data, batch_size: int, epochs: int, seed: int
) -> dict[str, Any]:
    """Train; return the test accuracy of every epoch, and what becomes of it in other tests."""
    rng, optimiser = np.random.default_rng(seed), Adam(LEARNING_RATE * np.sqrt(batch_size / 32))
    curve = []
    for _ in range(epochs):
        train_epoch(network, optimiser, data.x_train, data.y_train, batch_size=batch_size, rng=rng)
        curve.append(evaluate(network, data.x_test, data.y_test)[1])
    changed = change_images(data.x_test, np.random.default_rng(seed))
    return {
        "curve": curve,
        "test": curve[-1],
        "alone": one_by_one(network, data.x_test, data.y_test),
        "changed": evaluate(network, changed, data.y_test)[1],
    }


def train_all(options: argparse.Namespace, kind: str) -> Runs:
    """Train one kind of network with each norm at each batch size."""
    images = kind == "convolutional"
    epochs = options.conv_epochs if images else options.epochs
    runs: Runs = {}
    settings = [(name, size) for name in KINDS[kind] for size in BATCH_SIZES]
    for name, size in tqdm(settings, desc=f"{kind} networks", unit="setting"):
        norm, runs[name, size] = KINDS[kind][name], []
        for seed in range(options.seeds):
            data, rng = digits(seed, images=images), np.random.default_rng(seed)
            if images:
                network = build_conv_network(CHANNELS, 10, rng=rng, norm=norm)
            else:
                network = build_network(SIZES, rng=rng, norm=norm, activation=Relu)
            runs[name, size].append(train_one(network, data, size, epochs, seed))
    return runs


def report(checks: Checks, options: argparse.Namespace, kind: str, runs: Runs) -> None:
    """Print a line for each norm."""
    middle = BATCH_SIZES[1]
    rows = []
    for name in KINDS[kind]:
        cells = [percent([one["test"] for one in runs[name, size]]) for size in BATCH_SIZES]
        cells += [percent([one[test] for one in runs[name, middle]]) for test in TESTS]
        rows.append([name, *cells])
        accuracy = np.mean([one["test"] for one in runs[name, middle]])
        # Far below what they reach, but for a network whose norm is broken.
        enough = accuracy > (0.2 if options.quick else 0.8)
        checks(bool(enough), f"{kind}, norm {name}: {100 * accuracy:.1f} % only")
    for name, size in runs:
        if name != "both":
            same = all(abs(one["test"] - one["alone"]) < 0.01 for one in runs[name, size])
            checks(same, f"{kind}, norm {name}: an answer depends on the rest of the test batch")
    table(
        ["norm", *(f"batches of {size}" for size in BATCH_SIZES)]
        + [f"of {middle}, {test}" for test in TESTS.values()],
        rows,
        title=f"Test accuracy, {kind} network, seeds: {options.seeds}",
    )


def draw_curves(options: argparse.Namespace, results: dict[str, Runs]) -> None:
    """Draw the test error over epochs: a row for each network, a column for each batch size."""
    figure, axes = new_figure(2, len(BATCH_SIZES), width=8.5, height=5.4, sharey="row")
    for row, (kind, runs) in enumerate(results.items()):
        for column, size in enumerate(BATCH_SIZES):
            axis = axes[row, column]
            for name in KINDS[kind]:
                errors = 100 - 100 * np.array([one["curve"] for one in runs[name, size]])
                epochs = range(1, errors.shape[1] + 1)
                style = "--" if name == "none" else "-"
                axis.plot(epochs, errors.mean(axis=0), style, color=COLOURS[name], label=name)
            axis.set(title=f"{kind}, batches of {size}", xlabel="epoch", yscale="log")
            axis.set_yticks((2, 5, 10, 20, 50)[: 5 - row])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter("{x:g}")
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[row, 0].set_ylabel("test error, %")
        axes[row, -1].legend(loc="lower left" if row == 0 else "upper right", fontsize=8)
    save(
        figure,
        options.out,
        "axes_curves",
        title="The same networks, each norm, three batch sizes",
        caption=f"Means of {options.seeds} seeds; the tables have the spread. "
        "An epoch has 359, 44 and 11 steps of batches of 4, 32 and 128.",
    )


def draw_changed(options: argparse.Namespace, results: dict[str, Runs]) -> None:
    """Draw examples of the changed digits, and accuracy before and after for each norm."""
    figure, axes = new_figure(
        1, 3, width=11.0, height=4.0, gridspec_kw={"width_ratios": (1.1, 1.4, 1.2)}
    )
    x = digits(0, images=True).x_test[:4]
    rows = [
        np.hstack(list(images[:, 0])) for images in (x, change_images(x, np.random.default_rng(0)))
    ]
    axes[0, 0].imshow(np.vstack(rows), cmap="gray", vmin=-0.7, vmax=1.0)
    axes[0, 0].set(title="as they are, and changed", xticks=[], yticks=[])
    for axis, (kind, runs) in zip(axes[0, 1:], results.items(), strict=True):
        for place, name in enumerate(KINDS[kind]):
            for test, width in (("test", 0.8), ("changed", 0.45)):
                values = [100 * one[test] for one in runs[name, BATCH_SIZES[1]]]
                colour, alpha = COLOURS[name], 0.3 if test == "test" else 1.0
                axis.bar(place, np.mean(values), width, color=colour, alpha=alpha)
                axis.plot([place] * len(values), values, ".", color="black", markersize=4)
        axis.set_xticks(range(len(KINDS[kind])), list(KINDS[kind]))
        axis.set(title=kind, xlabel="norm", ylabel="test accuracy, %", ylim=(0, 105))
    save(
        figure,
        options.out,
        "axes_contrast",
        title="Digits of another brightness and contrast than those of training",
        caption=f"Wide, pale: test digits as they are. Narrow, dark: changed, each in its own way. "
        f"Dots: {options.seeds} seeds. Trained with batches of {BATCH_SIZES[1]}.",
    )


def lecture(checks: Checks) -> None:
    """Check the axes, then train."""
    options = arguments(
        "Batch, layer, instance and group norm on the same networks.",
        quick={"seeds": 1, "epochs": 1, "conv_epochs": 1},
        full={"seeds": 3, "epochs": 12, "conv_epochs": 6},
    )
    check_axes(checks, digits(0, images=True))
    results = {kind: train_all(options, kind) for kind in KINDS}
    for kind, runs in results.items():
        report(checks, options, kind, runs)
    draw_curves(options, results)
    draw_changed(options, results)


if __name__ == "__main__":
    run(lecture)
