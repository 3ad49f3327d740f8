"""Draws a run of run.py: `python bench/chart.py results.json out.svg`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

OURS = "bnfast"
FLOOR = "floor"
BAR = 0.38  # of the distance between two shapes
OURS_COLOUR, PEER_COLOUR, FLOOR_COLOUR = "#1f6fb4", "#c9c9c9", "#111111"
INCHES_A_SHAPE = 0.42
MOST_COLUMNS = 3


@dataclass(frozen=True)
class Bars:
    """One case in GB/s: the bytes of the floor over the time that a contender takes."""

    label: str
    ours: float
    floor: float
    peer_name: str | None  # the fastest peer; None if the run had none
    peer: float


def bars(result: dict[str, Any], label: str) -> Bars:
    passes = result["reads"] + result["writes"]
    seconds = {name: summary["median"] for name, summary in result["seconds"].items()}
    rates = {name: passes * result["tensor_bytes"] / s / 1e9 for name, s in seconds.items()}
    peers = [name for name in rates if name != FLOOR and name.rpartition("-")[0] != OURS]
    best = max(peers, key=rates.__getitem__, default=None)
    # Like with like: a peer that allocates its result stands beside our call that does.
    mode = "out" if best is None else best.rpartition("-")[2]
    return Bars(
        label,
        rates[f"{OURS}-{mode}"],
        rates[FLOOR],
        best,
        0.0 if best is None else rates[best],
    )


def panels(report: dict[str, Any]) -> Iterator[tuple[str, list[Bars]]]:
    """(operation, its cases); a label names only what differs between the cases of the run."""
    results = report["results"]
    varying = [key for key in ("layout", "dtype") if len({r[key] for r in results}) > 1]
    for operation in dict.fromkeys(result["operation"] for result in results):
        yield (
            operation,
            [
                bars(result, ", ".join([result["shape"], *(result[key] for key in varying)]))
                for result in results
                if result["operation"] == operation
            ],
        )


def draw(axes: Any, operation: str, cases: list[Bars]) -> None:
    places = range(len(cases))
    axes.barh(
        [place - BAR / 2 for place in places],
        [case.ours for case in cases],
        BAR,
        color=OURS_COLOUR,
        label=OURS,
    )
    if any(case.peer_name for case in cases):
        axes.barh(
            [place + BAR / 2 for place in places],
            [case.peer for case in cases],
            BAR,
            color=PEER_COLOUR,
            label="fastest peer",
        )
    axes.vlines(
        [case.floor for case in cases],
        [place - BAR for place in places],
        [place + BAR for place in places],
        color=FLOOR_COLOUR,
        linewidth=2,
        label="floor: a plain stream of the same bytes",
    )
    for place, case in zip(places, cases, strict=True):
        if case.peer_name:
            axes.annotate(
                case.peer_name,
                (0, place + BAR / 2),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color="#444444",
            )
    axes.set_yticks(list(places), [case.label for case in cases], fontsize=8)
    axes.set_ylim(len(cases) - 0.5, -0.5)  # the first case on top
    axes.set_xlim(0, 1.05 * max(max(case.ours, case.floor, case.peer) for case in cases))
    axes.set_title(operation, fontsize=10)
    axes.set_xlabel("bytes of the floor / time (GB/s)", fontsize=9)
    axes.set_ylabel("shape", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def chart(report: dict[str, Any]) -> Any:
    drawn = list(panels(report))
    columns = min(MOST_COLUMNS, math.ceil(math.sqrt(len(drawn))))
    heights = [
        1.0 + INCHES_A_SHAPE * max(len(cases) for _, cases in drawn[first : first + columns])
        for first in range(0, len(drawn), columns)
    ]
    figure, grid = plt.subplots(
        len(heights),
        columns,
        figsize=(5.2 * columns, sum(heights) + 0.8),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axes, (operation, cases) in zip(grid.flat, drawn, strict=False):
        draw(axes, operation, cases)
    for axes in grid.flat[len(drawn) :]:
        axes.set_axis_off()
    machine = report["machine"]
    figure.suptitle(
        f"{machine['cpu']}, {machine['threads']} threads, {machine['target']}, "
        f"{', '.join(sorted({result['dtype'] for result in report['results']}))}",
        fontsize=10,
    )
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    return figure


def save(figure: Any, path: Path) -> None:
    # Text as text keeps the file small and searchable; no date makes it the same every time.
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = OURS
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what run.py wrote with --json")
    parser.add_argument("out", type=Path, help="a file name that ends in .svg, .png or .pdf")
    parser.add_argument("--ops", help="only these operations, separated by commas")
    parser.add_argument("--layouts", help="only these layouts")
    args = parser.parse_args(argv)
    report = json.loads(args.results.read_text())
    for key, wanted in (("operation", args.ops), ("layout", args.layouts)):
        if wanted is not None:
            names = wanted.split(",")
            report["results"] = [r for r in report["results"] if r[key] in names]
    if not report["results"]:
        parser.error(f"{args.results} holds no such results")
    save(chart(report), args.out)


if __name__ == "__main__":
    main()
