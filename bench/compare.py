"""Compares two runs of run.py, or of instructions.py: `python bench/compare.py old new`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "bnfast"
CASE = ("group", "shape", "layout", "dtype", "operation")


@dataclass(frozen=True)
class Quantity:
    """What is compared, how it is printed, and where it is to be taken seriously."""

    field: str  # in the JSON
    unit: str
    scale: float
    more: str
    less: str
    # More of it than this share is a failure, less is not worth one, however certain it is.
    tolerance: float
    # The facts about the machine and the versions without which the figures mean something else.
    same: tuple[str, ...]


MACHINE = ("cpu", "cores", "threads", "target", "transparent_huge_pages")
SECONDS = Quantity("seconds", "ms", 1e3, "slower", "faster", 0.05, MACHINE)
RATIOS = Quantity("ratios", "of the floor", 1, "slower", "faster", 0.05, MACHINE)
# Counted, not timed: the processor does not matter, but Python's own work is part of a call.
INSTRUCTIONS = Quantity(
    *("instructions", "instructions", 1, "more", "less", 0.01),
    same=("target", "python", "numpy", "valgrind"),
)

Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One contender's medians in two runs, and by how much they may differ by chance."""

    key: Key
    old: float
    new: float
    spread: float
    tolerance: float

    @property
    def relative(self) -> float:
        """0.1 is a tenth slower."""
        return self.new / self.old - 1

    @property
    def clear(self) -> bool:
        return abs(self.new - self.old) > self.spread

    @property
    def fails(self) -> bool:
        """Only our own calls: a floor or a peer that got slower is news about the machine."""
        ours = self.key[-1].startswith(f"{OURS}-")
        return ours and self.clear and self.relative > self.tolerance


def quantities(report: dict[str, Any], field: str) -> dict[Key, dict[str, float]]:
    """{(group, ..., contender): its median and quartiles} of every case."""
    return {
        (*(result[name] for name in CASE), contender): summary
        for result in report["results"]
        for contender, summary in result.get(field, {}).items()
        # A ratio to something of ours would count our own change a second time, upside down.
        if not contender.endswith(f"/{OURS}")
    }


def changes(
    old: dict[Key, dict[str, float]], new: dict[Key, dict[str, float]], tolerance: float
) -> list[Change]:
    """Of the contenders that both runs have, in the order of the new one."""

    def spread(summary: dict[str, float]) -> float:
        return (summary["q3"] - summary["q1"]) / 2

    return [
        Change(key, old[key]["median"], now["median"], spread(old[key]) + spread(now), tolerance)
        for key, now in new.items()
        if key in old
    ]


def describe(change: Change, quantity: Quantity) -> str:
    def figure(value: float, digits: int) -> str:
        value *= quantity.scale
        return f"{value:.0f}" if value >= 10**digits else f"{value:.{digits}g}"

    word = quantity.more if change.relative > 0 else quantity.less
    return (
        f"{'FAIL' if change.fails else '':4} {abs(change.relative):6.1%} {word}  "
        f"{' '.join(change.key)}: {figure(change.old, 4)} -> {figure(change.new, 4)} "
        f"{quantity.unit} (spread {figure(change.spread, 2)})"
    )


def warnings(old: dict[str, Any], new: dict[str, Any], same: tuple[str, ...]) -> Iterator[str]:
    facts = [
        {**report["machine"], **report["machine"].get("versions", {})} for report in (old, new)
    ]
    for fact in same:
        before, after = (known.get(fact) for known in facts)
        if before != after:
            yield f"{fact} differs: {before}, {after}"


def quantity_of(report: dict[str, Any], ratios: bool) -> Quantity:
    """Files of instructions.py hold nothing but instructions."""
    if any(INSTRUCTIONS.field in result for result in report["results"]):
        return INSTRUCTIONS
    return RATIOS if ratios else SECONDS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Exits 1 if a bnfast call got slower by more than both spreads and 5 %, or takes "
        "over 1 % more instructions.",
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--ratios",
        action="store_true",
        help="compare time / floor, which a machine that is slower today changes less",
    )
    args = parser.parse_args(argv)
    old, new = json.loads(args.old.read_text()), json.loads(args.new.read_text())
    quantity = quantity_of(new, args.ratios)
    for warning in warnings(old, new, quantity.same):
        print(warning, file=sys.stderr)
    before, after = quantities(old, quantity.field), quantities(new, quantity.field)
    found = changes(before, after, quantity.tolerance)
    clear = sorted((c for c in found if c.clear), key=lambda c: c.relative, reverse=True)
    for change in clear:
        print(describe(change, quantity))
    slower = sum(change.relative > 0 for change in clear)
    failed = sum(change.fails for change in clear)
    print(
        f"{len(found)} compared: {slower} {quantity.more}, {len(clear) - slower} {quantity.less} "
        f"by more than the spread of both runs; {failed} of bnfast {quantity.more} by more than "
        f"{quantity.tolerance:.0%} too"
    )
    if alone := len(before.keys() ^ after.keys()):
        print(f"{alone} are in one file only")
    if not found:
        print("nothing to compare", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
