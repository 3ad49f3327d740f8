"""What every lecture needs beside its networks: data, options, tables and figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no display is needed

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import bnfast

# Colours of Okabe & Ito's palette, which colour-blind readers can tell apart.
WITHOUT, WITH = "#D55E00", "#0072B2"
PALETTE = (WITH, WITHOUT, "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@dataclass
class Data:
    """Samples as float32 arrays, and what each of them shows."""

    x_train: np.ndarray
    x_test: np.ndarray
    y_train: np.ndarray
    y_test: np.ndarray


def split(x: np.ndarray, labels: np.ndarray, seed: int, test_size: float = 0.2) -> Data:
    """Split samples at random; every class has the same share of both parts."""
    parts = train_test_split(
        x.astype(np.float32), labels, test_size=test_size, stratify=labels, random_state=seed
    )
    return Data(*parts)


def digits(seed: int, *, images: bool = False, test_size: float = 0.2) -> Data:
    """Split 1,797 handwritten digits of 8 x 8 pixels at random, and centre the pixels.

    A sample is a row of 64 pixels, or with `images` a channel of 8 x 8.
    """
    pixels, labels = load_digits(return_X_y=True)
    data = split(pixels / 16.0, labels, seed, test_size)  # pixels are 0 .. 16
    shape = (-1, 1, 8, 8) if images else (-1, 64)
    grey = data.x_train.mean()
    data.x_train, data.x_test = ((x - grey).reshape(shape) for x in (data.x_train, data.x_test))
    return data


def arguments(
    description: str, *, quick: dict[str, Any], full: dict[str, Any]
) -> argparse.Namespace:
    """Read the command line: --quick, --out, and a number for each name in `full`.

    `full` has the defaults of a whole run, `quick` those that differ with --quick.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("lectures_output"), help="for pictures")
    for name, value in full.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(value),
            help=f"default {value}, with --quick {quick.get(name, value)}",
        )
    options = parser.parse_args()
    for name, value in {**full, **(quick if options.quick else {})}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
        if isinstance(value, int) and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print a table in Markdown: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    print(f"\n{title}\n" if title else "")
    for first, *others in (cells[0], rule, *cells[1:]):
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("| " + " | ".join([first.ljust(widths[0]), *right]) + " |")


def mean_spread(values: Sequence[float] | np.ndarray, digits: int = 1, scale: float = 1.0) -> str:
    """Return "mean ± standard deviation over the seeds"; no spread of a single value."""
    scaled = scale * np.asarray(values, np.float64)
    spread = f" ± {scaled.std(ddof=1):.{digits}f}" if len(scaled) > 1 else ""
    return f"{scaled.mean():.{digits}f}{spread}"


def percent(values: Sequence[float] | np.ndarray) -> str:
    """Return fractions as "mean ± standard deviation %"."""
    return f"{mean_spread(values, 1, 100.0)} %"


def new_figure(
    rows: int, columns: int, *, width: float = 9.5, height: float = 4.2, **kind: Any
) -> tuple[Any, Any]:
    """Return a figure in the lectures' style and a 2-D array of its axes."""
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **kind)


def plot_band(axis: Any, x: Any, values: Any, colour: str, label: str, style: str = "-") -> None:
    """Draw the mean of `values`, of shape (seeds, len(x)), and the range of all seeds."""
    values = np.asarray(values, np.float64)
    axis.plot(x, values.mean(axis=0), style, color=colour, label=label, linewidth=1.8)
    if len(values) > 1:
        axis.fill_between(
            x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0
        )


def save(figure: Any, folder: Path, name: str, *, title: str, caption: str) -> None:
    """Write folder/name.png, with a title above and a caption below the figure."""
    figure.suptitle(title, fontsize=12.5)
    lines = caption.count("\n") + 1
    bottom = (0.10 + 0.17 * lines) / figure.get_figheight()
    figure.tight_layout(rect=(0, bottom, 1, 1))
    figure.text(0.01, 0.01, caption, fontsize=8.5, color="0.3", va="bottom")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=110)
    plt.close(figure)
    print(f"\nPicture: {folder / name}.png")


class Checks:
    """What must be true at the end of a lecture; the rest is only reported."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def __call__(self, holds: bool, failure: str) -> None:
        """Remember the sentence `failure` unless it holds."""
        if not holds:
            self.failures.append(failure)


def run(lecture: Callable[[Checks], None]) -> None:
    """Run a lecture and end the program: with 1, and a line for each, if checks failed."""
    checks = Checks()
    # Arrays this small gain nothing from more threads, and lose much on a busy machine.
    with threadpool_limits(limits=1, user_api="blas"), bnfast.num_threads(1):
        lecture(checks)
    for failure in checks.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    sys.exit(bool(checks.failures))
