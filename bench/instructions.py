"""Counts the instructions of small calls with valgrind: `python bench/instructions.py`.

The figures do not depend on how busy the machine is: a change of one call in a hundred shows.
One thread, and a target without AVX-512, which valgrind does not know.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from floors import l2_bytes_per_core
from machine import facts
from peers import BnFast
from report import markdown_table
from shapes import named
from timing import summarise
from workload import OPERATIONS, Case

TARGET = "x86_64_v3"
OPS = ("forward", "backward", "dropout", "dropout_backward")
SHAPE = "32x64"
# Python specialises its bytecode in the first calls; memory pools fill up.
WARM_UP_CALLS = 50
# A sample is the difference of a long and a short loop, over the difference of their calls.
SHORT_LOOP, LONG_LOOP = 50, 150
SAMPLES, SMOKE_SAMPLES = 3, 1
# A function of libc that nothing else calls: valgrind writes a profile each time it is entered.
MARKER = "getppid"
# Python's own hashes, and what other libraries' threads do, would change the counts.
ENVIRONMENT = {
    "BNFAST_TARGET": TARGET,
    "BNFAST_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
MOST_FUNCTIONS = 40  # of each call, in the JSON

# Layers, in the order of a call. Those of the extension are told apart where its symbols are kept.
LAYERS = ("Python", "NumPy", "bindings", "api", "cpu", "kernels", "extension", "libc")

# {(binary, function): instructions of its own, without those of what it calls}
Costs = Counter[tuple[str, str]]


def contenders(library: BnFast) -> Iterator[tuple[str, Any]]:
    """(operation, contender), in the order in which they are run and reported."""
    for operation in OPS:
        for contender in library.contenders(
            Case(OPERATIONS[operation], named(SHAPE), "rows", "float32")
        ):
            yield operation, contender


def run_calls(samples: int) -> None:
    """What runs under valgrind: a marker before each loop, and one at the end."""
    calls = [contender.call for _, contender in contenders(BnFast(1))]
    gc.disable()
    for call in calls:
        for _ in range(WARM_UP_CALLS):
            call()
    for call in calls:
        for _ in range(samples):
            for count in (SHORT_LOOP, LONG_LOOP):
                os.getppid()
                for _ in range(count):
                    call()
    os.getppid()


def layer_of(binary: str, function: str) -> str:
    """Of the code in a file of that name, from the function's name in C++ where it has one."""
    name = Path(binary).name
    if name.startswith("_core."):
        if "pybind11::" in function or "bnfast::bindings::" in function:
            return "bindings"
        if f"bnfast::{TARGET}::" in function:
            return "kernels"
        if "bnfast::cpu::" in function:
            return "cpu"
        return "api" if "bnfast::" in function else "extension"
    if "/numpy" in binary:
        return "NumPy"
    # Memory of the system, copies, fills, and the functions that the loader found.
    return "libc" if name.startswith(("lib", "ld-")) and "python" not in name else "Python"


def read_profile(lines: Sequence[str]) -> Costs:
    """Of a file that valgrind wrote uncompressed."""
    costs: Costs = Counter()
    binary = function = ""
    of_callee = False
    for line in lines:
        key, equals, value = line.partition("=")
        if equals:
            if key == "ob":
                binary = value
            elif key == "fn":
                function = value
            # The line after "calls=" holds what the callee took, which is counted at the callee.
            of_callee = key == "calls"
        elif line[:1].isdigit():
            if not of_callee:
                costs[binary, function] += int(line.split()[1])
            of_callee = False
    return costs


def profile(samples: int) -> list[Costs]:
    """Runs this file under valgrind; one profile for each loop, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "profile"
        command = [
            *("valgrind", "--tool=callgrind", f"--dump-before={MARKER}"),
            *("--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={out}"),
            *(sys.executable, __file__, "--under-valgrind", str(samples)),
        ]
        environment = {**os.environ, **ENVIRONMENT}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        # The first part is everything before the first marker, the last is what follows the last.
        parts = sorted(Path(folder).glob("profile.*"), key=lambda path: int(path.suffix[1:]))
        return [read_profile(part.read_text().splitlines()) for part in parts[1:]]


def per_call(short: Costs, long: Costs) -> Costs:
    """The two loops have the same beginning and end, which cancel."""
    calls = LONG_LOOP - SHORT_LOOP
    return Counter({key: (long[key] - short[key]) / calls for key in {*short, *long}})


def by_layer(costs: Costs) -> dict[str, float]:
    sums = dict.fromkeys(LAYERS, 0.0)
    for (binary, function), cost in costs.items():
        sums[layer_of(binary, function)] += cost
    return sums


def results(profiles: Sequence[Costs], samples: int) -> list[dict[str, Any]]:
    """As in the JSON of run.py, with instructions in place of seconds."""
    found: dict[str, dict[str, Any]] = {}
    rest = iter(profiles)
    for operation, contender in contenders(BnFast(1)):
        case = Case(OPERATIONS[operation], named(SHAPE), "rows", "float32")
        loops = [per_call(next(rest), next(rest)) for _ in range(samples)]
        result = found.setdefault(
            operation,
            {
                "group": "tiny",
                "shape": case.shape.name,
                "layout": case.layout,
                "dtype": case.dtype_name,
                "operation": operation,
                "instructions": {},
                "layers": {},
                "functions": {},
            },
        )
        totals = summarise([sum(costs.values()) for costs in loops])
        result["instructions"][contender.name] = totals.as_json()
        result["layers"][contender.name] = by_layer(loops[-1])
        result["functions"][contender.name] = [
            [f"{function} [{Path(binary).name}]", cost]
            for (binary, function), cost in loops[-1].most_common(MOST_FUNCTIONS)
        ]
    return list(found.values())


def print_table(found: Sequence[dict[str, Any]]) -> None:
    used = [k for k in LAYERS if any(v[k] > 0.5 for r in found for v in r["layers"].values())]
    rows = [
        [
            f"{result['operation']}, {name}",
            f"{total['median']:.0f}",
            *(f"{result['layers'][name][layer]:.0f}" for layer in used),
        ]
        for result in found
        for name, total in result["instructions"].items()
    ]
    print(f"\nInstructions a call, {SHAPE} float32\n")
    print(markdown_table(["call", "all", *used], rows))


def print_functions(found: Sequence[dict[str, Any]], most: int) -> None:
    for result in found:
        for name, functions in result["functions"].items():
            print(f"\n{result['operation']}, {name}")
            for function, cost in functions[:most]:
                print(f"{cost:10.0f}  {function}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--json", type=Path, help="write the figures to this file, for compare.py")
    add("--functions", type=int, default=0, help="list so many functions of each call")
    add("--smoke", action="store_true", help="one sample in place of three: for CI")
    add("--under-valgrind", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.under_valgrind is not None:
        run_calls(args.under_valgrind)
        return 0
    if shutil.which("valgrind") is None:
        print("instruction counts left out: valgrind is not installed")
        return 0
    samples = SMOKE_SAMPLES if args.smoke else SAMPLES
    library = BnFast(1)
    if TARGET not in library.targets:
        print(f"instruction counts left out: this build or machine has no target {TARGET}")
        return 0
    found = results(profile(samples), samples)
    tool = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    versions = {library.name: library.version, "valgrind": tool.stdout.strip()}
    machine = facts(1, l2_bytes_per_core(), TARGET, versions)
    print(f"{machine['versions']}, target {TARGET}, one thread")
    print_table(found)
    if args.functions:
        print_functions(found, args.functions)
    if args.json:
        report = {"schema": 1, "machine": machine, "results": found}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
