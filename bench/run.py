"""Times bnfast beside its floor and its peers: `python bench/run.py --group resnet50`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from floors import floor_call, traffic
from machine import Disturbance, facts
from peers import PEERS, BnFast, load_peers
from report import FLOOR, Record, as_json, print_tables
from shapes import GROUPS, select
from timing import MIN_SAMPLE_NS, measure
from workload import DTYPES, OPERATIONS, Array, Case, Library

from bnfast import _core

LAYOUTS = ("planes", "rows")
DEFAULT_OPS = ["forward", "backward", "inference", "forward_residual_relu", "dropout"]
NORM_GROUP = "norms"
NORM_OPS = [name for name, operation in OPERATIONS.items() if operation.norm != "batch"]
SMOKE_GROUP = "tiny"
SMOKE_ROUNDS = 3
SMOKE_SAMPLE_NS = 20_000

# Mean difference between two libraries, relative to the mean magnitude, beyond which they did
# not compute the same thing. Loose: accuracy is the business of the tests.
AGREEMENT = {"float64": 1e-6, "float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
COMPARED_ELEMENTS = 100_000


class DisagreementError(AssertionError):
    """Two libraries gave different results for one case."""


def sample(array: Array) -> Array:
    """Evenly spaced elements in float64, enough to notice that something else was computed."""
    flat = array.reshape(-1)
    return flat[:: max(1, flat.size // COMPARED_ELEMENTS)].astype(np.float64)


def check(expected: Array, got: Array, case: Case) -> None:
    chance = 0.0  # by how much random results may differ besides
    if case.operation.random and case.operation.prologue:
        # Each library drew a mask of its own, on which all of y depends: the same distribution.
        expected, got = np.sort(expected), np.sort(got)
        chance = 5 / math.sqrt(got.size)
    elif case.operation.random:
        # Each library drew a mask of its own: as many zeros, and the same values where both kept.
        zeros, allowed = (expected == 0).mean() - (got == 0).mean(), 5 * math.sqrt(0.5 / got.size)
        if not abs(zeros) <= allowed:
            raise DisagreementError(
                f"shares of zeros differ by {abs(zeros):.3g}, allowed {allowed:.3g}"
            )
        kept = (expected != 0) & (got != 0)
        expected, got = expected[kept], got[kept]
    difference = float(np.abs(got - expected).mean())
    allowed = (AGREEMENT[case.dtype_name] + chance) * float(np.abs(expected).mean())
    # Not "greater than": a NaN must fail.
    if not difference <= allowed:
        raise DisagreementError(f"mean difference {difference:.3g}, allowed {allowed:.3g}")


def run_case(case: Case, group: str, libraries: list[Library], args: argparse.Namespace) -> Record:
    """Times one case; the first library is ours, an error of which ends the run.

    Every call is made once before, which pays for page faults and the creation of threads, and its
    result is compared with ours.
    """
    calls: dict[str, Callable[[], Any]] = {}
    errors: dict[str, str] = {}
    expected: Array | None = None
    for library in libraries:
        try:
            found = library.calls(case)
            results = {mode: library.result(call(), case) for mode, call in found.items()}
        except (RuntimeError, ValueError, TypeError) as error:
            if expected is None:
                raise
            errors[library.name] = str(error)
            continue
        for mode, result in results.items():
            got = sample(result)
            expected = got if expected is None else expected
            check(expected, got, case)
            calls[f"{library.name}-{mode}"] = found[mode]
        del results
    passes = traffic(case, _core.private_cache_bytes())
    floor = floor_call(case, passes, args.threads)
    floor()
    disturbance = Disturbance()
    seconds = measure({FLOOR: floor, **calls}, args.rounds, args.min_sample_ns)
    # A copy holds none of the arrays that the case has made.
    return Record(group, replace(case), passes, seconds, disturbance.share(), errors)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    def names(value: str) -> list[str]:
        return [name for name in value.split(",") if name]

    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--group", type=names, default=["resnet50"], help=f"all or of: {','.join(GROUPS)}")
    add("--shapes", type=names, default=[], help="only these shape names of the groups")
    add("--layouts", type=names, default=list(LAYOUTS), help=",".join(LAYOUTS))
    add("--dtypes", type=names, default=["float32"], help=",".join(DTYPES))
    add("--ops", type=names, default=[], help=f"all or of: {','.join(OPERATIONS)}")
    add("--peers", type=names, default=["torch"], help=f"all or of: {','.join(PEERS)}")
    add("--threads", type=int, default=_core.usable_cpus())
    add("--rounds", type=int, default=15)
    add("--json", type=Path, help="write the figures to this file")
    add("--smoke", action="store_true", help="a few seconds, to see that it works: for CI")
    args = parser.parse_args(argv)
    for option, known in (
        ("group", (*GROUPS, "all")),
        ("layouts", LAYOUTS),
        ("dtypes", DTYPES),
        ("ops", (*OPERATIONS, "all")),
        ("peers", (*PEERS, "all")),
    ):
        if unknown := [name for name in getattr(args, option) if name not in known]:
            parser.error(f"--{option}: got {','.join(unknown)}, expected of {','.join(known)}")
    args.ops = args.ops or (NORM_OPS if args.group == [NORM_GROUP] else DEFAULT_OPS)
    args.ops = list(OPERATIONS) if "all" in args.ops else args.ops
    args.peers = list(PEERS) if "all" in args.peers else args.peers
    if args.threads < 1 or args.rounds < 1:
        parser.error("--threads and --rounds: expected at least 1")
    args.min_sample_ns = MIN_SAMPLE_NS
    if args.smoke:
        args.group, args.rounds, args.min_sample_ns = [SMOKE_GROUP], SMOKE_ROUNDS, SMOKE_SAMPLE_NS
    return args


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    peers, missing = load_peers(args.peers, args.threads)
    for name, reason in missing.items():
        print(f"{name} left out: {reason}", file=sys.stderr)
    libraries = [BnFast(args.threads), *peers]
    machine = facts(args.threads, {library.name: library.version for library in libraries})
    for name, value in machine.items():
        print(f"{name}: {value}")
    if len(machine["openmp_runtimes"]) > 1:
        print("several OpenMP runtimes: their idle threads disturb each other", file=sys.stderr)

    records: list[Record] = []
    for group, shape in select(args.group):
        if args.shapes and shape.name not in args.shapes:
            continue
        layouts = shape.layouts(args.layouts)
        for layout, dtype, name in product(layouts, args.dtypes, args.ops):
            operation = OPERATIONS[name]
            if not operation.suits(shape) or (operation.elementwise and layout != layouts[0]):
                continue
            # A case per operation: its arrays are freed before the next one's are made.
            case = Case(operation, shape, layout, dtype)
            print(f"{shape.name} {layout} {dtype} {name}", file=sys.stderr)
            records.append(run_case(case, group, libraries, args))
    print_tables(records)
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "smoke")}
        args.json.write_text(json.dumps(as_json(records, machine, settings), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
