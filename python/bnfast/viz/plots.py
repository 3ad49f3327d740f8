"""The training of one layer as a picture of matplotlib: quantile bands over the steps."""

from __future__ import annotations

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


def draw_layer(name: str, records: Sequence[Record]) -> Figure:
    """Return the figure that `Recording.plot` describes; there is at least one record.

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
    figure.suptitle(name)
    figure.supxlabel(CAPTION, fontsize="small")
    steps = [record.step for record in records]
    _bands(inputs, steps, [record.input.quantiles for record in records], BATCH)
    _bands(outputs, steps, [record.output.quantiles for record in records], BATCH)
    _bands_of_channels(means, records, "batch_mean", BATCH, "of the batch")
    _bands_of_channels(means, records, "running_mean", RUNNING, "running")
    _bands_of_channels(variances, records, "batch_var", BATCH, "of the batch")
    _bands_of_channels(variances, records, "running_var", RUNNING, "running")
    _bands_of_channels(gammas, records, "gamma", BATCH)
    _bands_of_channels(betas, records, "beta", BATCH)
    labels = {
        inputs: ("Input", "x"),
        outputs: ("Output", "y"),
        means: ("Mean", "mean of x"),
        variances: ("Variance", "variance of x"),
        gammas: ("gamma", "scale"),
        betas: ("beta", "shift"),
    }
    for axes, (title, label) in labels.items():
        axes.set(title=title, ylabel=label)
        axes.grid(alpha=0.3)
    for axes in (outputs, variances, betas):
        axes.set_xlabel("step (training calls of the layer)")
    for axes in (means, variances):
        axes.legend(fontsize="small")
    if all(min(record.channels["batch_var"].quantiles) > 0 for record in records):
        variances.set_yscale("log")
    return figure


def _bands_of_channels(
    axes: Axes, records: Sequence[Record], quantity: str, colour: str, label: str | None = None
) -> None:
    there = [record for record in records if quantity in record.channels]
    if there:
        quantiles = [record.channels[quantity].quantiles for record in there]
        _bands(axes, [record.step for record in there], quantiles, colour, label)
    elif label is None:
        axes.text(0.5, 0.5, "the layer has none", ha="center", transform=axes.transAxes)


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
