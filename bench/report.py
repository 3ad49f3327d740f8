"""What a run found: one record per case, printed as tables and written as JSON.

`python bench/report.py norms.json` prints the geometric means of such a file as README has them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from floors import Traffic
from timing import Summary, geometric_mean, ratio, summarise
from workload import OPERATIONS, Case, Operation

FLOOR = "floor"
OURS = "bnfast"
# Beyond this share of the cores taken by others, a figure is marked as not to be trusted.
MAX_DISTURBANCE = 0.05


@dataclass
class Record:
    """The timings of one case: seconds a call, one value a round, for the floor and all calls."""

    group: str
    case: Case
    traffic: Traffic
    seconds: dict[str, list[float]]
    disturbance: float  # share of the cores that other programs took meanwhile
    errors: dict[str, str]  # of peers that could not run the case

    @property
    def disturbed(self) -> bool:
        return self.disturbance > MAX_DISTURBANCE

    @property
    def section(self) -> tuple[str, str, str]:
        """Records of one section make one table."""
        return self.case.operation.name, self.case.layout, self.case.dtype_name

    @property
    def floor_gb_per_s(self) -> float:
        moved = self.traffic.bytes_moved(self.case.nbytes)
        return moved / summarise(self.seconds[FLOOR]).median / 1e9

    def ratios(self) -> dict[str, Summary]:
        """Ours over the floor, and peers over ours with the same kind of output.

        A peer's time is never set beside our time with the other kind: fresh outputs cost page
        faults, which say nothing about kernels.
        """
        found: dict[str, Summary] = {}
        for name, values in self.seconds.items():
            library, _, mode = name.rpartition("-")
            if library == OURS:
                found[f"{name}/{FLOOR}"] = ratio(values, self.seconds[FLOOR])
            elif name != FLOOR:
                found[f"{name}/{OURS}"] = ratio(values, self.seconds[f"{OURS}-{mode}"])
        return found

    def as_json(self) -> dict[str, Any]:
        case = self.case
        return {
            "group": self.group,
            "shape": case.shape.name,
            "dims": list(case.shape.dims(case.layout)),
            "axis": case.axis,
            "layout": case.layout,
            "dtype": case.dtype_name,
            "operation": case.operation.name,
            "tensor_bytes": case.nbytes,
            "reads": self.traffic.reads,
            "writes": self.traffic.writes,
            "floor_gb_per_s": self.floor_gb_per_s,
            "seconds": {name: summarise(v).as_json() for name, v in self.seconds.items()},
            "ratios": {name: summary.as_json() for name, summary in self.ratios().items()},
            "disturbance": self.disturbance,
            "errors": self.errors,
        }


def _sections(records: list[Record]) -> Iterator[tuple[tuple[str, str, str], list[Record]]]:
    for key, group in groupby(sorted(records, key=lambda r: r.section), lambda r: r.section):
        yield key, list(group)


def geometric_means(records: list[Record]) -> dict[str, float]:
    """Of every ratio, over the records that have it."""
    found: dict[str, list[float]] = {}
    for record in records:
        for name, summary in record.ratios().items():
            found.setdefault(name, []).append(summary.median)
    return {name: geometric_mean(values) for name, values in found.items()}


def _table(records: list[Record]) -> Iterator[str]:
    means = geometric_means(records)
    columns = {name: max(19, len(name)) for name in means}
    fixed = f"{'':20} {'MB':>7} {'floor':>6} {'ms':>9} {'GB/s':>6}"
    yield fixed + "".join(f" {name:>{columns[name]}}" for name in means)
    for record in records:
        floor = summarise(record.seconds[FLOOR])
        ratios = record.ratios()
        cells = "".join(f" {ratios.get(name, '-')!s:>{columns[name]}}" for name in means)
        yield (
            f"{record.case.shape.name:20} {record.case.nbytes / 1e6:7.2f}"
            f" {record.traffic!s:>6} {floor.median * 1e3:9.4f} {record.floor_gb_per_s:6.1f}"
            f"{cells}{'  !' if record.disturbed else ''}"
        )
    cells = "".join(f" {mean:{columns[name] - 6}.2f}{'':6}" for name, mean in means.items())
    yield f"{'geometric mean':{len(fixed)}}{cells}"


def print_tables(records: list[Record]) -> None:
    print("\nRatios are medians over the rounds, ± half the distance between the quartiles.")
    for section, group in _sections(records):
        print(f"\n{', '.join(section)}", *_table(group), sep="\n")
        for record in group:
            for name, message in record.errors.items():
                print(f"  {record.case.shape.name}: {name} left out: {message}")
    if disturbed := sum(record.disturbed for record in records):
        print(
            f"\n! {disturbed} of {len(records)} lines were taken while other programs used over "
            f"{MAX_DISTURBANCE:.0%} of the cores: repeat them on a quiet machine"
        )


def as_json(
    records: list[Record], machine: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "machine": machine,
        "settings": settings,
        "geometric_means": [
            {"operation": op, "layout": layout, "dtype": dtype, **geometric_means(group)}
            for (op, layout, dtype), group in _sections(records)
        ],
        "results": [record.as_json() for record in records],
    }


def _label(operation: Operation) -> str:
    """Such as "forward + add + ReLU": the steps in their order, and which norm if not batch."""
    norm = "" if operation.norm == "batch" else f"{operation.norm} norm, "
    step = norm + operation.kind.replace("_", " ")
    present = {"add": operation.residual, "ReLU": operation.relu, "dropout": operation.dropout}
    fused = [name for name in present if present[name]]
    return " + ".join([*fused, step] if operation.prologue else [step, *fused])


def _cell(means: dict[str, float], *names: str) -> str:
    """The first of these ratios that the run has, with two or three digits."""
    value = next((means[name] for name in names if name in means), None)
    return "" if value is None else f"{value:.{0 if value >= 10 else 2}f}"


def markdown(report: dict[str, Any]) -> Iterator[str]:
    """README's table: our time over the floor's, and PyTorch's over ours, for each operation."""
    group = ",".join(report["settings"]["group"])
    found = {(m["dtype"], m["operation"], m["layout"]): m for m in report["geometric_means"]}
    for dtype in dict.fromkeys(dtype for dtype, _, _ in found):
        yield (
            f"| {dtype}, `--group {group}`, geometric means | time / memory floor: channels first |"
            " channels last | PyTorch's time / ours: channels first | channels last |"
        )
        yield "|---|---:|---:|---:|---:|"
        for name, operation in OPERATIONS.items():
            means = [found.get((dtype, name, layout), {}) for layout in ("planes", "rows")]
            floors = [_cell(mean, f"{OURS}-out/{FLOOR}") for mean in means]
            peers = [_cell(mean, f"torch-out/{OURS}", f"torch-fresh/{OURS}") for mean in means]
            if any(means):
                yield f"| {' | '.join([_label(operation), *floors, *peers])} |"


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(*markdown(json.loads(Path(path).read_text())), sep="\n")
