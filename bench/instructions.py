"""Counts the instructions of small calls with valgrind: `python bench/instructions.py`.

The figures do not depend on how busy the machine is: a change of one per cent shows. One thread,
and a target without AVX-512, which valgrind does not know.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import BnFast
from shapes import named
from workload import OPERATIONS, Case

import bnfast

TARGET = "x86_64_v3"
BATCH_NORM, DROPOUT = ("forward", "backward", "inference"), ("dropout", "dropout_backward")
OPS = (*BATCH_NORM, *DROPOUT, "layer_forward", "layer_backward")
SHAPE = "32x64"
WARM_UP_CALLS = 50  # Python specialises its bytecode in the first calls; memory pools fill up
# A count is the difference of a long and a short loop, over the difference of their calls.
LOOPS = SHORT, LONG = 50, 150
# Valgrind writes a profile each time that this function of libc is entered.
MARKER, mark = "getppid", os.getppid
ENVIRONMENT = {"BNFAST_TARGET": TARGET, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
UNDER_VALGRIND = "--under-valgrind"


def small_calls() -> dict[str, Callable[[], Any]]:
    library = BnFast(1)
    cases = [Case(OPERATIONS[name], named(SHAPE), "rows", "float32") for name in OPS]
    return {
        f"{case.operation.name}, {mode}": call
        for case in cases
        for mode, call in library.calls(case).items()
    }


def run_calls() -> None:
    """What runs under valgrind: a mark before each loop, and one at the end."""
    gc.disable()
    for call in small_calls().values():
        for _ in range(WARM_UP_CALLS):
            call()
        for count in LOOPS:
            mark()
            for _ in range(count):
                call()
        mark()


def read_total(profile: str) -> int:
    """All instructions of a profile."""
    return next(int(line.split()[1]) for line in profile.splitlines() if line.startswith("totals:"))


def per_call(profiles: list[int]) -> list[float]:
    """Of each call, from the instructions before its marks and after the last one.

    Three marks a call end what comes before its short loop, the short loop and the long one.
    """
    shorts, longs = profiles[1::3], profiles[2::3]
    return [(long - short) / (LONG - SHORT) for short, long in zip(shorts, longs, strict=True)]


def count() -> list[float]:
    """Runs this file under valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--dump-before={MARKER}"]
        command += [f"--callgrind-out-file={folder}/profile"]
        command += [sys.executable, __file__, UNDER_VALGRIND]
        subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, check=True)
        files = sorted(Path(folder).glob("profile.*"), key=lambda path: int(path.suffix[1:]))
        return per_call([read_total(file.read_text()) for file in files])


def main() -> int:
    if UNDER_VALGRIND in sys.argv:
        run_calls()
    elif shutil.which("valgrind") is None:
        print("instruction counts left out: valgrind is not installed")
    elif TARGET not in bnfast.targets():
        print(f"instruction counts left out: this build or machine has no target {TARGET}")
    else:
        print(f"Instructions a call, {SHAPE} float32, {TARGET}, one thread")
        for name, instructions in zip(small_calls(), count(), strict=True):
            print(f"{name:24} {instructions:8.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
