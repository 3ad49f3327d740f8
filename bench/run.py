"""Times bnfast beside its floor and its peers: `python bench/run.py --group resnet50`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from contender import Contender, Library
from floors import floor_call, l2_bytes_per_core, traffic
from machine import Disturbance, facts, usable_cores
from peers import PEERS, BnFast, load_peers
from report import FLOOR, Record, as_json, print_tables
from roofs import measure_roofs
from shapes import GROUPS, select
from timing import MIN_SAMPLE_NS, Call, measure
from workload import DTYPES, OPERATIONS, Array, Case

LAYOUTS = ("planes", "rows")
DEFAULT_OPS = ["forward", "backward", "inference", "forward_residual_relu", "dropout"]
SMOKE_GROUP = "tiny"
SMOKE_ROUNDS = 3
SMOKE_SAMPLE_NS = 20_000

# Mean difference between two libraries, relative to the mean magnitude, beyond which they did
# not compute the same thing. Loose: accuracy is the business of the tests.
AGREEMENT = {"float64": 1e-6, "float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
COMPARED_ELEMENTS = 100_000


class DisagreementError(RuntimeError):
    """Two contenders gave different results for one case."""


def _sample(array: Array) -> Array:
    """Evenly spaced elements in float64, enough to notice that something else was computed."""
    flat = array.reshape(-1)
    return flat[:: max(1, flat.size // COMPARED_ELEMENTS)].astype(np.float64)


def _check_masked(expected: Array, got: Array, case: Case) -> None:
    """As _check, where the two drew masks of their own: the values that both kept, and how many."""
    kept = (expected != 0) & (got != 0)
    _check(expected[kept], got[kept], case)
    zeros, allowed = (expected == 0).mean() - (got == 0).mean(), 5 * math.sqrt(0.5 / got.size)
    if not abs(zeros) <= allowed:
        raise DisagreementError(
            f"shares of zeros differ by {abs(zeros):.3g}, allowed {allowed:.3g}"
        )


def _check(expected: Array, got: Array, case: Case) -> None:
    difference = float(np.abs(got - expected).mean())
    allowed = AGREEMENT[case.dtype_name] * float(np.abs(expected).mean())
    # Not "greater than": a NaN must fail.
    if not difference <= allowed:
        raise DisagreementError(f"mean difference {difference:.3g}, allowed {allowed:.3g}")


def _warm_up(contender: Contender) -> Array:
    """The first call, which pays for page faults and thread creation, and its result."""
    return _sample(contender.result(contender.call()))


def run_case(
    case: Case,
    group: str,
    ours: BnFast,
    peers: list[Library],
    args: argparse.Namespace,
    l2_bytes: int,
) -> Record:
    """Warms up, checks that all agree, and times one case. An error of ours ends the run."""
    passes = traffic(case, l2_bytes)
    calls: dict[str, Call] = {}
    errors: dict[str, str] = {}
    check_peer = _check_masked if case.operation.random else _check
    own = ours.contenders(case)
    expected = _warm_up(own[0])
    for contender in own[1:]:
        _check(expected, _warm_up(contender), case)
    for contender in own:
        calls[contender.name] = contender.call
    for peer in peers:
        try:
            theirs = peer.contenders(case)
        except (RuntimeError, ValueError, TypeError) as error:
            errors[peer.name] = str(error)
            continue
        for contender in theirs:
            try:
                got = _warm_up(contender)
            except (RuntimeError, ValueError, TypeError) as error:
                errors[contender.name] = str(error)
                continue
            check_peer(expected, got, case)
            calls[contender.name] = contender.call
    floor = floor_call(case, passes, ours.stream, args.threads)
    floor()
    disturbance = Disturbance()
    seconds = measure({FLOOR: floor, **calls}, args.rounds, args.min_sample_ns)
    others = disturbance.share()
    # A copy holds none of the arrays that the case has made.
    return Record(group, replace(case), passes, seconds, others, errors)


def _names(value: str) -> list[str]:
    return [name for name in value.split(",") if name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--group", type=_names, default=["resnet50"], help=f"all or of: {','.join(GROUPS)}")
    add("--shapes", type=_names, default=[], help="only these shape names of the groups")
    add("--layouts", type=_names, default=list(LAYOUTS), help=",".join(LAYOUTS))
    add("--dtypes", type=_names, default=["float32"], help=",".join(DTYPES))
    add("--ops", type=_names, default=DEFAULT_OPS, help=f"all or of: {','.join(OPERATIONS)}")
    add("--peers", type=_names, default=["torch"], help=f"all or of: {','.join(PEERS)}")
    add("--threads", type=int, default=usable_cores())
    add("--rounds", type=int, default=15)
    add("--json", type=Path, help="write the figures to this file")
    add("--roofs", action="store_true", help="measure what roofline.py needs, for --json")
    add("--smoke", action="store_true", help="a few seconds, to see that it works: for CI")
    return parser


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    for option, given, known in (
        ("--group", args.group, (*GROUPS, "all")),
        ("--layouts", args.layouts, LAYOUTS),
        ("--dtypes", args.dtypes, DTYPES),
        ("--ops", args.ops, (*OPERATIONS, "all")),
        ("--peers", args.peers, (*PEERS, "all")),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"{option}: got {','.join(unknown)}, expected of {','.join(known)}")
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
    ours = BnFast(args.threads)
    l2_bytes = l2_bytes_per_core()
    versions = {library.name: library.version for library in (ours, *peers)}
    machine = facts(args.threads, l2_bytes, ours.target, versions)
    for name, value in machine.items():
        print(f"{name}: {value}")
    if len(machine["openmp_runtimes"]) > 1:  # type: ignore[arg-type]
        print("several OpenMP runtimes: their idle threads disturb each other", file=sys.stderr)

    records: list[Record] = []
    for group, shape in select(args.group):
        if args.shapes and shape.name not in args.shapes:
            continue
        layouts = shape.layouts(args.layouts)
        for layout, dtype, name in product(layouts, args.dtypes, args.ops):
            operation = OPERATIONS[name]
            if operation.elementwise and layout != layouts[0]:
                continue
            # A case per operation: its arrays are freed before the next one's are made.
            case = Case(operation, shape, layout, dtype)
            print(f"{shape.name} {layout} {dtype} {name}", file=sys.stderr)
            records.append(run_case(case, group, ours, peers, args, l2_bytes))
    print_tables(records)
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "smoke")}
        report = as_json(records, machine, settings)
        if args.roofs:
            report["roofs"] = measure_roofs(ours.stream, args.threads, l2_bytes)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
