"""Draws a run of run.py: `python bench/chart.py results.json out.svg`."""

from __future__ import annotations

import argparse
import json
import math
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


def fastest_peer(result: dict[str, Any]) -> str | None:
    """Its name and mode; None if the run had no peer."""
    seconds = {name: summary["median"] for name, summary in result["seconds"].items()}
    peers = [name for name in seconds if name != FLOOR and name.rpartition("-")[0] != OURS]
    return min(peers, key=seconds.__getitem__, default=None)


def rate(result: dict[str, Any], name: str) -> float:
    """GB/s: the bytes of the floor over the time of a call."""
    moved = (result["reads"] + result["writes"]) * result["tensor_bytes"]
    return moved / result["seconds"][name]["median"] / 1e9


def draw(axes: Any, results: list[dict[str, Any]], varying: list[str]) -> None:
    """One operation; the label of a case names the shape and what varies besides."""
    for place, result in enumerate(results):
        peer = fastest_peer(result)
        # Like with like: a peer that allocates its result stands beside our call that does.
        mode = "out" if peer is None else peer.rpartition("-")[2]
        ours = rate(result, f"{OURS}-{mode}")
        axes.barh(place - BAR / 2, ours, BAR, color=OURS_COLOUR, label=OURS)
        if peer is not None:
            middle = place + BAR / 2
            axes.barh(middle, rate(result, peer), BAR, color=PEER_COLOUR, label="fastest peer")
            axes.text(0, middle, f" {peer}", va="center", fontsize=7, color="#444444")
        axes.vlines(
            rate(result, FLOOR),
            place - BAR,
            place + BAR,
            color=FLOOR_COLOUR,
            linewidth=2,
            label="floor: a plain stream of the same bytes",
        )
    labels = [", ".join([r["shape"], *(r[key] for key in varying)]) for r in results]
    axes.set_yticks(range(len(results)), labels, fontsize=8)
    axes.set_ylim(len(results) - 0.5, -0.5)  # the first case on top
    axes.set_xlim(left=0)
    axes.set_title(results[0]["operation"], fontsize=10)
    axes.set_xlabel("bytes of the floor / time (GB/s)", fontsize=9)
    axes.set_ylabel("shape", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def chart(report: dict[str, Any]) -> Any:
    results = report["results"]
    operations = list(dict.fromkeys(result["operation"] for result in results))
    panels = [[r for r in results if r["operation"] == operation] for operation in operations]
    columns = min(MOST_COLUMNS, math.ceil(math.sqrt(len(panels))))
    heights = [
        1.0 + INCHES_A_SHAPE * max(map(len, panels[first : first + columns]))
        for first in range(0, len(panels), columns)
    ]
    figure, grid = plt.subplots(
        len(heights),
        columns,
        figsize=(5.2 * columns, sum(heights) + 0.8),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    varying = [key for key in ("layout", "dtype") if len({r[key] for r in results}) > 1]
    for axes, panel in zip(grid.flat, panels, strict=False):
        draw(axes, panel, varying)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    machine, dtypes = report["machine"], sorted({result["dtype"] for result in results})
    title = f"{machine['cpu']}, {machine['threads']} threads, {machine['target']}"
    figure.suptitle(f"{title}, {', '.join(dtypes)}", fontsize=10)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    legend = dict(zip(labels, handles, strict=True))
    figure.legend(
        legend.values(), legend, loc="outside lower center", ncols=len(legend), fontsize=9
    )
    return figure


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
    # Text as text keeps the file small and searchable; no date makes it the same every time.
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = OURS
    metadata = {"Date": None} if args.out.suffix == ".svg" else None
    chart(report).savefig(args.out, metadata=metadata, dpi=150)


if __name__ == "__main__":
    main()
