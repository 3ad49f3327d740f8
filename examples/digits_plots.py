"""The pictures of train_digits.py and digits_transformer.py: curves, pre-activations, dropout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from lectures.lab import STYLE, WITH, WITHOUT
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator, PercentFormatter

if TYPE_CHECKING:
    from digits_dropout import Trial
    from digits_transformer import Curves
    from train_digits import Run

NORM_COLOURS = {"layer norm": "#E69F00", "RMS norm": "#009E73", "batch norm": WITH}


def colour(run: Run | Trial) -> str:
    """Return the colour that stands for with or without batch norm in every picture."""
    return WITH if run.batch_norm else WITHOUT


def plot_curves(runs: list[Run], path: Path, *, target: float) -> None:
    """Draw loss (top) and accuracy (bottom) over epochs, one column for each learning rate."""
    rates = list(dict.fromkeys(run.learning_rate for run in runs))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(rates), figsize=(9.5, 6.6), sharex=True, sharey="row", squeeze=False
        )
        for column, rate in enumerate(rates):
            loss_axes, accuracy_axes = axes[:, column]
            loss_axes.set_title(f"Learning rate {rate:g}")
            accuracy_axes.axhline(target, color="0.55", linewidth=0.9, linestyle=":")
            for run in (run for run in runs if run.learning_rate == rate):
                epochs = np.arange(1, len(run.test_loss) + 1)
                for values, axis in (
                    ((run.train_loss, run.test_loss), loss_axes),
                    ((run.train_accuracy, run.test_accuracy), accuracy_axes),
                ):
                    axis.plot(epochs, values[0], "--", color=colour(run), linewidth=1.1)
                    axis.plot(epochs, values[1], "-", color=colour(run), linewidth=1.9)
            accuracy_axes.set_xlabel("Epoch")
        axes[0, 0].set(ylabel="Cross-entropy loss (nats)", yscale="log")
        axes[1, 0].set(ylabel="Accuracy", ylim=(0, 1.02))
        axes[1, 0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes[1, 0].annotate(
            f"{100 * target:.0f} %",
            (1, target),
            (0, -3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="top",
            color="0.4",
            fontsize=9,
        )
        handles = [
            Line2D([], [], color=WITHOUT, linewidth=3, label="without batch norm"),
            Line2D([], [], color=WITH, linewidth=3, label="with batch norm"),
            Line2D([], [], color="0.3", linewidth=1.9, label="test"),
            Line2D([], [], color="0.3", linewidth=1.1, linestyle="--", label="training"),
        ]
        figure.suptitle("Handwritten digits, sigmoid network: learning curves", fontsize=13)
        figure.legend(handles=handles, loc="upper center", ncols=4, bbox_to_anchor=(0.5, 0.96))
        figure.tight_layout(rect=(0, 0, 1, 0.955))
        figure.savefig(path)
        plt.close(figure)


def plot_preactivations(runs: list[Run], path: Path, *, saturated: float) -> None:
    """Draw what entered the sigmoids: a column for each run, a row for each hidden layer.

    Two more rows tell the share of saturated values and how far z differs between samples.
    """
    layers = len(runs[0].saturated[0])
    limit = max(saturated + 2, 1.05 * max(np.abs(run.percentiles).max() for run in runs))
    layer_colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, layers))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            layers + 2,
            len(runs),
            figsize=(2.9 * len(runs), 1.75 * layers + 5.4),
            sharex=True,
            sharey="row",
            squeeze=False,
        )
        for column, run in enumerate(runs):
            epochs = np.array(run.snapshot_epochs)
            percentiles = np.array(run.percentiles)  # (snapshot, layer, percentile)
            for layer in range(layers):
                draw_band(axes[layer, column], epochs, percentiles[:, layer], colour(run))
                axes[layer, column].axhspan(saturated, limit, color="0.5", alpha=0.16, linewidth=0)
                axes[layer, column].axhspan(
                    -limit, -saturated, color="0.5", alpha=0.16, linewidth=0
                )
                axes[layer, column].set_ylim(-limit, limit)
            for row, values in ((layers, run.saturated), (layers + 1, run.spread)):
                for layer, line in enumerate(np.array(values).T):
                    axes[row, column].plot(epochs, line, color=layer_colours[layer], linewidth=1.5)
            name = "with" if run.batch_norm else "without"
            axes[0, column].set_title(
                f"Learning rate {run.learning_rate:g}\n{name} batch norm", color=colour(run)
            )
            axes[-1, column].set_xlabel("Epoch")
        for layer in range(layers):
            axes[layer, 0].set_ylabel(f"Hidden layer {layer + 1}\npre-activation z")
        axes[layers, 0].set(ylabel=f"Saturated\n(|z| > {saturated:g})", ylim=(-0.03, 1.03))
        axes[layers, 0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes[layers + 1, 0].set(ylabel="Spread of z over\nsamples (std)", yscale="log")
        axes[0, 0].text(
            0.5,
            (saturated + limit) / 2,
            "sigmoid saturated",
            color="0.35",
            fontsize=9,
            transform=axes[0, 0].get_yaxis_transform(),
            ha="center",
            va="center",
        )
        add_preactivation_legends(figure, layer_colours)
        figure.align_ylabels()
        figure.savefig(path)
        plt.close(figure)


def draw_band(axis: Axes, epochs: np.ndarray, percentiles: np.ndarray, shade: str) -> None:
    """Fill 5 to 95 % and 25 to 75 % and draw the median; percentiles: (snapshot, 5 values)."""
    low, lower, median, upper, high = percentiles.T
    axis.fill_between(epochs, low, high, color=shade, alpha=0.22, linewidth=0)
    axis.fill_between(epochs, lower, upper, color=shade, alpha=0.42, linewidth=0)
    axis.plot(epochs, median, color=shade, linewidth=1.4)


def add_preactivation_legends(figure: plt.Figure, layer_colours: np.ndarray) -> None:
    """Place title and legends in inches from the edges, so that they fit any number of layers."""
    height = figure.get_size_inches()[1]
    figure.suptitle(
        "What the sigmoids see: pre-activations z over training",
        fontsize=13,
        y=1 - 0.15 / height,
        va="top",
    )
    bands = [
        Line2D([], [], color="0.25", linewidth=1.4, label="median"),
        Patch(color="0.25", alpha=0.55, linewidth=0, label="25 to 75 %"),
        Patch(
            color="0.25",
            alpha=0.22,
            linewidth=0,
            label="5 to 95 % of the values (all units and samples of a mini-batch)",
        ),
    ]
    lines = [
        Line2D([], [], color=shade, linewidth=2, label=f"hidden layer {layer + 1}")
        for layer, shade in enumerate(layer_colours)
    ]
    figure.legend(
        handles=bands, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1 - 0.42 / height)
    )
    figure.legend(handles=lines, loc="lower center", ncols=6, bbox_to_anchor=(0.5, 0.02 / height))
    figure.tight_layout(rect=(0, 0.38 / height, 1, 1 - 0.45 / height), h_pad=0.7)


def plot_dropout(trials: list[Trial], path: Path) -> None:
    """Draw accuracy (left) and the generalisation gap (right) over the dropout rate."""
    with plt.rc_context(STYLE):
        figure, (accuracy_axes, gap_axes) = plt.subplots(1, 2, figsize=(9.5, 4.4))
        for batch_norm in (False, True):
            chosen = [trial for trial in trials if trial.batch_norm == batch_norm]
            shade = colour(chosen[0])
            rates = [trial.rate for trial in chosen]
            for axis, style, samples in (
                (accuracy_axes, "o--", [trial.train for trial in chosen]),
                (accuracy_axes, "o-", [trial.test for trial in chosen]),
                (gap_axes, "o-", [trial.gap for trial in chosen]),
            ):
                values = np.array(samples)
                error = values.std(axis=1) / np.sqrt(values.shape[1])
                axis.plot(rates, values, color=shade, linewidth=0.6, alpha=0.25)
                axis.errorbar(rates, values.mean(axis=1), error, fmt=style, color=shade, capsize=3)
        accuracy_axes.set(xlabel="Dropout rate", ylabel="Accuracy")
        gap_axes.set(xlabel="Dropout rate", ylabel="Training minus test accuracy", ylim=(0, None))
        for axis in (accuracy_axes, gap_axes):
            axis.set_xticks(rates)
            axis.yaxis.set_major_locator(MultipleLocator(0.05))
            axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        handles = [
            Line2D([], [], color=WITHOUT, linewidth=3, label="without batch norm"),
            Line2D([], [], color=WITH, linewidth=3, label="with batch norm"),
            Line2D([], [], color="0.3", linewidth=1.9, label="test; gap"),
            Line2D([], [], color="0.3", linewidth=1.9, linestyle="--", label="training"),
            Line2D([], [], color="0.3", linewidth=0.6, alpha=0.5, label="one seed"),
        ]
        figure.suptitle("Few digits, some with a random label: dropout", fontsize=13)
        figure.legend(handles=handles, loc="upper center", ncols=5, bbox_to_anchor=(0.5, 0.94))
        figure.tight_layout(rect=(0, 0, 1, 0.92))
        figure.savefig(path)
        plt.close(figure)


def plot_transformer(kinds: list[Curves], path: Path) -> None:
    """Draw training loss (left) and test accuracy (right) over epochs: each seed, and the mean."""
    with plt.rc_context(STYLE):
        figure, (loss_axes, accuracy_axes) = plt.subplots(1, 2, figsize=(9.5, 4.4))
        for curves in kinds:
            for axis, values in (
                (loss_axes, np.array(curves.train_loss)),
                (accuracy_axes, np.array(curves.test_accuracy)),
            ):
                epochs = np.arange(1, values.shape[1] + 1)
                shade = NORM_COLOURS[curves.name]
                axis.plot(epochs, values.T, color=shade, linewidth=0.6, alpha=0.35)
                axis.plot(epochs, values.mean(axis=0), color=shade, linewidth=1.9)
        loss_axes.set(xlabel="Epoch", ylabel="Training loss (cross-entropy, nats)", yscale="log")
        # Below 80 % lie the first epochs only; the rest would be flat beside them.
        accuracy_axes.set(xlabel="Epoch", ylabel="Test accuracy", ylim=(0.8, 1.0))
        accuracy_axes.yaxis.set_major_locator(MultipleLocator(0.05))
        accuracy_axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        handles = [
            Line2D([], [], color=NORM_COLOURS[curves.name], linewidth=3, label=curves.name)
            for curves in kinds
        ]
        handles.append(Line2D([], [], color="0.3", linewidth=1.9, label="mean"))
        handles.append(Line2D([], [], color="0.3", linewidth=0.6, alpha=0.5, label="one seed"))
        figure.suptitle(
            "Handwritten digits: a Transformer with layer or RMS norm, and a batch norm network",
            fontsize=13,
        )
        figure.legend(handles=handles, loc="upper center", ncols=5, bbox_to_anchor=(0.5, 0.94))
        figure.tight_layout(rect=(0, 0, 1, 0.92))
        figure.savefig(path)
        plt.close(figure)
