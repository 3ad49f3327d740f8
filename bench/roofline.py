"""Draws runs of `run.py --roofs` as a roofline: `python bench/roofline.py results.json out.svg`.

Williams, Waterman & Patterson 2009: what an operation can reach is the lower of the arithmetic peak
and its operations a byte times the bandwidth of the memory that it comes from.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from chart import save
from matplotlib.ticker import LogLocator, NullFormatter

OURS = "bnfast"
FLOOR = "floor"

ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

# Operations an element, as the formulas of cpp/src/cpu/kernels have them; a fused multiply-add is
# two. Loads, stores, conversions, addresses and the few operations a channel are not counted.
STATISTICS = 3  # x added; x * x added (float64)
CENTRE = 2  # x - mean, the mean being a sum of two numbers
AFFINE = 2  # * scale + shift
GRADIENT_SUMS = 3  # dz added; dz * (x - mean) added (float64)
DX = 4  # (dz - its mean - (x - mean) * projection) * scale
RESIDUAL = 1
RELU = 1  # the comparison
RELU_GRADIENT = 2  # the comparison, and the product with dy
# Integers. Philox makes 8 elements of 16 bits in 10 rounds of 2 products and 4 exclusive ors.
KEEP_BIT = 10 * 6 / 8 + 1  # and the comparison with the threshold
DROP = 2  # * 1 / keep; chosen by the bit

COLOURS = {
    OURS: "#1f6fb4",
    "torch": "#d1662b",
    "onednn": "#3c9d5b",
    "onednn-blocked": "#8a5fbf",
}
OTHER_COLOUR = "#777777"
MARKS = {"out": "o", "fresh": "^"}
# Names of operations less than this factor apart stand on different levels.
NEAR, LEVELS, LEVEL_POINTS = 1.055, 3, 92


def operations(name: str) -> float:
    """An element, of an operation of workload.py by its name."""
    kind, *fused = name.split("_")
    residual, relu, dropout = (step in fused for step in ("residual", "relu", "dropout"))
    if kind == "dropout":
        return KEEP_BIT + DROP
    if kind == "backward":
        # The gradient at the affine's output is made in both sweeps, the bits once.
        undo = CENTRE + relu * (AFFINE + residual * RESIDUAL + RELU_GRADIENT) + dropout * DROP
        return 2 * undo + GRADIENT_SUMS + DX + dropout * KEEP_BIT
    statistics = STATISTICS if kind == "forward" else 0
    apply = CENTRE + AFFINE + residual * RESIDUAL + relu * RELU
    return statistics + apply + dropout * (KEEP_BIT + DROP)


@dataclass(frozen=True)
class Point:
    """One contender of one case."""

    operation: str
    library: str
    mode: str
    intensity: float  # operations a byte of the floor
    rate: float  # 1e9 operations a second


def points(results: Sequence[dict[str, Any]]) -> Iterator[Point]:
    """The work and the bytes are ours in every case: a peer that moves more has a lower rate."""
    for result in results:
        elements = result["tensor_bytes"] / ITEM_BYTES[result["dtype"]]
        work = operations(result["operation"]) * elements
        moved = (result["reads"] + result["writes"]) * result["tensor_bytes"]
        for contender, summary in result["seconds"].items():
            library, _, mode = contender.rpartition("-")
            if contender != FLOOR:
                rate = work / summary["median"] / 1e9
                yield Point(result["operation"], library, mode, work / moved, rate)


def _draw_roofs(axes: Any, roofs: dict[str, Any], left: float, right: float) -> None:
    sgemm, style = roofs["sgemm_gflop_per_s"], {"color": "#222222", "linewidth": 1.2}
    for level, bandwidth in roofs["gb_per_s"].items():
        end = min(right, sgemm / bandwidth) if sgemm else right
        axes.plot([left, end], [left * bandwidth, end * bandwidth], **style)
        place = (left * end) ** 0.5
        # Caches of nearly the same speed: the text of the slower one goes below its line.
        axes.text(
            place,
            place * bandwidth * (0.96 if level == "L3" else 1.04),
            f"{level}, {bandwidth:.0f} GB/s",
            va="top" if level == "L3" else "bottom",
            rotation=math.degrees(math.atan(bandwidth)),
            rotation_mode="anchor",
            transform_rotates_text=True,
            fontsize=8,
        )
    if sgemm:
        axes.axhline(sgemm, linestyle="--", **style)
        axes.annotate(
            f"arithmetic, {sgemm:.0f} GFLOP/s: NumPy's product of float32 matrices",
            (right, sgemm),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )


def _draw_points(axes: Any, found: Sequence[Point]) -> None:
    for library in dict.fromkeys(point.library for point in found):
        for mode, mark in MARKS.items():
            mine = [p for p in found if (p.library, p.mode) == (library, mode)]
            # Ours once: what fresh results cost is not the subject.
            if mine and (library, mode) != (OURS, "fresh"):
                axes.scatter(
                    [point.intensity for point in mine],
                    [point.rate for point in mine],
                    s=30 if library == OURS else 18,
                    marker=mark,
                    color=COLOURS.get(library, OTHER_COLOUR),
                    alpha=0.8,
                    linewidths=0,
                    zorder=3 if library == OURS else 2,
                    label=f"{library}, {mode}",
                )


def _name_operations(axes: Any, found: Sequence[Point]) -> None:
    """A name beside each column of points, higher where the next column is near."""
    names: dict[float, list[str]] = {}
    for point in sorted(found, key=lambda point: point.intensity):
        column = names.setdefault(point.intensity, [])
        if point.operation not in column:
            column.append(point.operation)
    level, before = 0, 0.0
    for intensity, operations_there in names.items():
        level = (level + 1) % LEVELS if intensity < before * NEAR else 0
        before = intensity
        axes.axvline(intensity, color="#cccccc", linewidth=0.6, zorder=0)
        axes.annotate(
            ", ".join(operations_there),
            (intensity, 0.0),
            xycoords=("data", "axes fraction"),
            xytext=(-2, 4 + level * LEVEL_POINTS),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=7,
            color="#444444",
        )


def roofline(reports: Sequence[dict[str, Any]]) -> Any:
    found = [point for report in reports for point in points(report["results"])]
    left = min(point.intensity for point in found) / 1.6
    right = max(point.intensity for point in found) * 3
    figure, axes = plt.subplots(figsize=(9.6, 6.8), layout="constrained")
    _draw_roofs(axes, reports[0]["roofs"], left, right)
    _draw_points(axes, found)
    axes.set(xscale="log", yscale="log", xlim=(left, right))
    axes.set_ylim(bottom=min(point.rate for point in found) / 8)
    _name_operations(axes, found)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("operations a byte of the floor")
    axes.set_ylabel("operations a second, in 1e9")
    machine = reports[0]["machine"]
    axes.set_title(
        f"{machine['cpu']}, {machine['threads']} threads, {machine['target']}: a point for a shape",
        fontsize=10,
    )
    axes.legend(fontsize=8, loc="lower right")
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="+", help="what run.py wrote with --json")
    parser.add_argument("out", type=Path, help="a file name that ends in .svg, .png or .pdf")
    args = parser.parse_args(argv)
    reports = [json.loads(path.read_text()) for path in args.results]
    if "roofs" not in reports[0]:
        parser.error(f"{args.results[0]} holds no roofs: run.py --roofs measures them")
    if not any(report["results"] for report in reports):
        parser.error("the files hold no results")
    save(roofline(reports), args.out)


if __name__ == "__main__":
    main()
