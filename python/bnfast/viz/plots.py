"""The training of one layer as a picture of matplotlib: quantile bands over the steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from bnfast.viz.records import Record

# Of Okabe and Ito's palette, which is told apart whatever colours one sees.
BATCH, RUNNING = "#0072b2", "#d55e00"
CAPTION = (
    "Lines are medians, dark bands hold the middle half and light ones the middle 90 % of the "
    "values:\nof all elements of input and output, and of the channels otherwise. The running "
    "statistics are those after the step; the batch's variance is the biased one."
)


def draw_layer(name: str, records: Sequence[Record], channel: int | None = None) -> Figure:
    """Return the figure that `Recording.plot` describes, of at least one record.

    Examples
    --------
    >>> import bnfast.viz, numpy as np
    >>> bn = bnfast.BatchNorm(2)
    >>> with bnfast.viz.Recorder(every=1).watch(bn) as recorder:
    ...     for step in range(3):
    ...         y = bn(np.random.default_rng(step).normal(size=(8, 2)))
    >>> figure = recorder.plot("BatchNorm")
    >>> [axes.get_title() for axes in figure.axes][:3]
    ['Input', 'Mean', 'gamma']
    """
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    ((inputs, means, gammas), (outputs, variances, betas)) = figure.subplots(2, 3, sharex=True)
    figure.suptitle(name if channel is None else f"{name}, channel {channel}")
    figure.supxlabel(CAPTION, fontsize="small")
    steps = [record.step for record in records]
    _bands(inputs, steps, [record.input.quantiles for record in records], BATCH)
    _bands(outputs, steps, [record.output.quantiles for record in records], BATCH)
    of_channels = partial(_bands_of_channels, records, channel)
    of_channels(means, "batch_mean", BATCH, "of the batch")
    of_channels(means, "running_mean", RUNNING, "running")
    of_channels(variances, "batch_var", BATCH, "of the batch")
    of_channels(variances, "running_var", RUNNING, "running")
    of_channels(gammas, "gamma", BATCH)
    of_channels(betas, "beta", BATCH)
    _label(inputs, "Input", "x")
    _label(outputs, "Output", "y")
    _label(means, "Mean", "mean of x")
    _label(variances, "Variance", "variance of x")
    _label(gammas, "gamma", "scale")
    _label(betas, "beta", "shift")
    for axes in (outputs, variances, betas):
        axes.set_xlabel("step (training calls of the layer)")
    if all(min(record.channels["batch_var"].quantiles) > 0 for record in records):
        variances.set_yscale("log")
    return figure


def _label(axes: Axes, title: str, label: str) -> None:
    axes.set(title=title, ylabel=label)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _bands_of_channels(
    records: Sequence[Record],
    channel: int | None,
    axes: Axes,
    quantity: str,
    colour: str,
    label: str | None = None,
) -> None:
    there = [record for record in records if quantity in record.channels]
    if not there:
        if label is None:
            axes.text(0.5, 0.5, "the layer has none", ha="center", transform=axes.transAxes)
        return
    steps, numbers = zip(*((r.step, r.channels[quantity]) for r in there), strict=True)
    if channel is None:
        _bands(axes, steps, [measured.quantiles for measured in numbers], colour, label)
    else:
        place = records[0].picked.index(channel)
        values = [measured.picked[place] for measured in numbers]
        axes.plot(steps, values, color=colour, linewidth=1.6, label=label)


def _bands(
    axes: Axes,
    steps: Sequence[int],
    quantiles: Sequence[Sequence[float]],
    colour: str,
    label: str | None = None,
) -> None:
    lowest, low, middle, high, highest = np.transpose(quantiles)
    axes.fill_between(steps, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    axes.fill_between(steps, low, high, color=colour, alpha=0.3, linewidth=0)
    axes.plot(steps, middle, color=colour, linewidth=1.6, label=label)
