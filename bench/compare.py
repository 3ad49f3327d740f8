"""Compares two runs of run.py: `python bench/compare.py old.json new.json`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "bnfast"
CASE = ("group", "shape", "layout", "dtype", "operation")
# Facts about the machine without which two runs cannot be compared.
SAME = ("cpu", "cores", "threads", "target", "transparent_huge_pages")
# More than this share slower is a failure; less is not worth one, however certain it is.
TOLERANCE = 0.05

Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One call's medians in two runs, and by how much they may differ by chance."""

    key: Key  # the case, and the name of the call
    old: float
    new: float
    spread: float

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
        return ours and self.clear and self.relative > TOLERANCE

    def describe(self, ratios: bool) -> str:
        unit, scale = ("of the floor", 1.0) if ratios else ("ms", 1e3)
        word = "slower" if self.relative > 0 else "faster"
        return (
            f"{'FAIL' if self.fails else '':4} {abs(self.relative):6.1%} {word}  "
            f"{' '.join(self.key)}: {self.old * scale:.4g} -> {self.new * scale:.4g} {unit} "
            f"(spread {self.spread * scale:.2g})"
        )


def summaries(report: dict[str, Any], field: str) -> dict[Key, dict[str, float]]:
    """{(group, ..., call): its median and quartiles} of every case."""
    return {
        (*(result[name] for name in CASE), call): summary
        for result in report["results"]
        for call, summary in result[field].items()
        # A ratio to something of ours would count our own change a second time, upside down.
        if not call.endswith(f"/{OURS}")
    }


def changes(old: dict[Key, dict[str, float]], new: dict[Key, dict[str, float]]) -> list[Change]:
    """Of the calls that both runs have, in the order of the new one."""

    def spread(summary: dict[str, float]) -> float:
        return (summary["q3"] - summary["q1"]) / 2

    return [
        Change(key, old[key]["median"], now["median"], spread(old[key]) + spread(now))
        for key, now in new.items()
        if key in old
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Exits 1 if a bnfast call got slower by more than both spreads and 5 %.",
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
    for fact in SAME:
        before, after = (report["machine"].get(fact) for report in (old, new))
        if before != after:
            print(f"{fact} differs: {before}, {after}", file=sys.stderr)
    field = "ratios" if args.ratios else "seconds"
    old, new = summaries(old, field), summaries(new, field)
    found = changes(old, new)
    clear = sorted((c for c in found if c.clear), key=lambda c: c.relative, reverse=True)
    for change in clear:
        print(change.describe(args.ratios))
    slower = sum(change.relative > 0 for change in clear)
    failed = sum(change.fails for change in clear)
    print(
        f"{len(found)} compared: {slower} slower, {len(clear) - slower} faster by more than the "
        f"spread of both runs; {failed} of bnfast slower by more than {TOLERANCE:.0%} too"
    )
    if alone := len(old.keys() ^ new.keys()):
        print(f"{alone} are in one file only")
    if not found:
        print("nothing to compare", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
