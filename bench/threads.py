"""Prints how bnfast scales with threads and shares the cores: `python bench/threads.py`.

Four sections, of which --parts selects some: speed-up with the number of threads; sizes for which
more threads are of no use; two processes at once; PyTorch at work in the same process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from floors import floor_call, l2_bytes_per_core, traffic
from machine import Disturbance, facts, openmp_runtimes, usable_cores
from peers import BnFast
from processes import print_processes
from report import MAX_DISTURBANCE, markdown_table
from shapes import named
from timing import MIN_SAMPLE_NS, Call, measure, ratio, summarise
from workload import OPERATIONS, Array, Case

OPS = ("forward", "backward", "dropout")
# Large, middle and small tensors of ResNet-50: 103, 26, 6.4 and 3.2 MB.
SCALING_SHAPES = ("64x112x112", "64x56x56", "256x14x14", "512x7x7")
# Below the work that repays a second thread, and just above it.
SIZES = ("32x64", "256x1024")
SIZE_THREADS = (1, 2, 4, 8)
# Of the convolution and of the batch norm behind it: 0.5 and 0.2 ms of work for two cores.
TORCH_SHAPES = ((8, 64, 28, 28), (8, 64, 7, 7))
MATMUL_SIDE = 512
CONVOLUTION_SIDE = 3


@dataclass(frozen=True)
class Effort:
    """How long the sections may take."""

    rounds: int
    min_sample_ns: int
    scaling_shapes: Sequence[str]
    sizes: Sequence[str]
    torch_shapes: Sequence[tuple[int, ...]]


FULL = Effort(11, MIN_SAMPLE_NS, SCALING_SHAPES, SIZES, TORCH_SHAPES)
SMOKE = Effort(3, 20_000, ("4x4-batch8",), ("32x64",), ((2, 8, 4, 4),))


def counts_up_to(most: int) -> list[int]:
    """1, 2, 4 ... and the number itself."""
    powers = [1 << exponent for exponent in range(most.bit_length())]
    return sorted({*powers, most})


def _with_threads(library: BnFast, call: Call, threads: int) -> Call:
    def run() -> object:
        library.set_num_threads(threads)
        return call()

    return run


def calls_by_threads(
    library: BnFast, case: Case, counts: Sequence[int], floor: bool
) -> dict[str, Call]:
    """One contender for each number of threads, and its floor where asked; warmed up."""
    call = library.contenders(case)[0].call
    passes = traffic(case, l2_bytes_per_core())
    calls: dict[str, Call] = {}
    for threads in counts:
        calls[f"bnfast {threads}"] = _with_threads(library, call, threads)
        if floor:
            calls[f"floor {threads}"] = floor_call(case, passes, library.stream, threads)
    for warm_up in calls.values():
        warm_up()
    return calls


def speed_ups(seconds: Mapping[str, Sequence[float]], counts: Sequence[int]) -> list[str]:
    """Ours and the floor's, for each number of threads but the first."""
    cells = []
    for threads in counts[1:]:
        for name in ("bnfast", "floor"):
            found = ratio(seconds[f"{name} {counts[0]}"], seconds[f"{name} {threads}"])
            cells.append(str(found))
    return cells


def print_scaling(library: BnFast, most: int, layouts: Sequence[str], effort: Effort) -> None:
    counts = counts_up_to(most)
    rows = []
    for name in effort.scaling_shapes:
        for layout in named(name).layouts(list(layouts)):
            for operation in OPS:
                if OPERATIONS[operation].elementwise and layout != layouts[0]:
                    continue
                case = Case(OPERATIONS[operation], named(name), layout, "float32")
                calls = calls_by_threads(library, case, counts, floor=True)
                seconds = measure(calls, effort.rounds, effort.min_sample_ns)
                alone = summarise(seconds["bnfast 1"])
                over = ratio(seconds[f"bnfast {most}"], seconds[f"floor {most}"])
                rows.append(
                    [
                        f"{name}, {layout}",
                        operation,
                        f"{case.nbytes / 1e6:.1f}",
                        f"{alone.median * 1e3:.3f}",
                        *speed_ups(seconds, counts),
                        str(over),
                    ]
                )
    print(f"\n## Speed-up over one thread, float32, up to {most} threads\n")
    print("The floor is a plain stream of the bytes that must be moved, with the same threads.\n")
    head = ["shape", "operation", "MB", "ms, 1 thread"]
    for threads in counts[1:]:
        head += [f"bnfast x{threads}", f"floor x{threads}"]
    print(markdown_table([*head, f"time / floor, {most} threads"], rows))


def print_sizes(library: BnFast, effort: Effort) -> None:
    rows = []
    for name in effort.sizes:
        for operation in OPS:
            case = Case(OPERATIONS[operation], named(name), "rows", "float32")
            calls = calls_by_threads(library, case, SIZE_THREADS, floor=False)
            seconds = measure(calls, effort.rounds, effort.min_sample_ns)
            alone = seconds["bnfast 1"]
            more = [str(ratio(seconds[f"bnfast {threads}"], alone)) for threads in SIZE_THREADS[1:]]
            rows.append([name, operation, f"{summarise(alone).median * 1e6:.2f}", *more])
    print("\n## More threads than the work repays: time over that of one thread\n")
    print(f"1 is no slowdown. {usable_cores()} cores: threads beyond them are not started.\n")
    head = ["shape", "operation", "us, 1 thread", *(f"{n} threads" for n in SIZE_THREADS[1:])]
    print(markdown_table(head, rows))


def torch_calls(torch: Any, shape: tuple[int, ...]) -> dict[str, Call]:
    """What a network does between two batch norms, on PyTorch's own threads."""
    channels = shape[1]
    x = torch.randn(shape)
    weight = torch.randn(channels, channels, CONVOLUTION_SIDE, CONVOLUTION_SIDE)
    square = torch.randn(MATMUL_SIDE, MATMUL_SIDE)
    return {
        "convolution": lambda: torch.nn.functional.conv2d(x, weight, padding=1),
        f"matmul {MATMUL_SIDE}": lambda: square @ square,
    }


def _alternating(first: Call, second: Call) -> Call:
    def both() -> None:
        first()
        second()

    return both


def together_over_alone(
    theirs: Call, ours: Call, with_threads: Mapping[int, Callable[[Call], Call]], effort: Effort
) -> dict[int, dict[str, list[float]]]:
    """Seconds of each alone and of both by turns, for each number of threads, in one measure."""
    calls: dict[str, Call] = {}
    for threads, wrap in with_threads.items():
        calls[f"torch {threads}"] = wrap(theirs)
        calls[f"bnfast {threads}"] = wrap(ours)
        calls[f"both {threads}"] = wrap(_alternating(theirs, ours))
    for warm_up in calls.values():
        warm_up()
    seconds = measure(calls, effort.rounds, effort.min_sample_ns)
    return {
        threads: {name: seconds[f"{name} {threads}"] for name in ("torch", "bnfast", "both")}
        for threads in with_threads
    }


def _both_threads(library: BnFast, torch: Any, threads: int, call: Call) -> Call:
    def run() -> object:
        # PyTorch's call costs microseconds where nothing changes, so it is left out there.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        library.set_num_threads(threads)
        return call()

    return run


def print_beside_torch(library: BnFast, most: int, effort: Effort) -> None:
    print("\n## PyTorch and bnfast by turns in one process\n")
    try:
        import torch
    except ImportError as error:
        print(f"left out: {error}")
        return
    torch.set_grad_enabled(False)
    counts = sorted({1, most})
    wraps = {n: partial(_both_threads, library, torch, n) for n in counts}
    rows = []
    for shape in effort.torch_shapes:
        x: Array = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
        ours = partial(library.forward, x, np.empty_like(x))
        for name, theirs in torch_calls(torch, shape).items():
            found = together_over_alone(theirs, ours, wraps, effort)
            for threads, seconds in found.items():
                alone = [a + b for a, b in zip(seconds["torch"], seconds["bnfast"], strict=True)]
                times = [f"{summarise(seconds[k]).median * 1e6:.0f}" for k in ("torch", "bnfast")]
                extra = [b - a for a, b in zip(alone, seconds["both"], strict=True)]
                rows.append(
                    [
                        f"{name}, forward {shape}",
                        str(threads),
                        *times,
                        str(ratio(seconds["both"], alone)),
                        f"{summarise(extra).median * 1e6:.0f}",
                    ]
                )
    print(f"PyTorch {torch.__version__}; OpenMP runtimes here: {', '.join(openmp_runtimes())}.")
    print("With one thread what is left is the caches that each takes from the other.\n")
    head = ["calls", "threads", "torch alone, us", "bnfast alone, us"]
    print(markdown_table([*head, "both / sum of alone", "both - sum, us"], rows))


PARTS = ("scaling", "sizes", "processes", "torch")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--threads", type=int, default=usable_cores(), help="the most")
    add("--parts", default=",".join(PARTS), help=",".join(PARTS))
    add("--layouts", default="planes", help="of the first part: planes,rows")
    add("--smoke", action="store_true", help="a few seconds, to see that it works: for CI")
    args = parser.parse_args(argv)
    args.parts, args.layouts = args.parts.split(","), args.layouts.split(",")
    for option, given, known in (
        ("--parts", args.parts, PARTS),
        ("--layouts", args.layouts, ("planes", "rows")),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"{option}: got {','.join(unknown)}, expected of {','.join(known)}")
    if args.threads < 1:
        parser.error(f"--threads: got {args.threads}, expected at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    effort = SMOKE if args.smoke else FULL
    library = BnFast(args.threads)
    versions = {library.name: library.version}
    machine = facts(args.threads, l2_bytes_per_core(), library.target, versions)
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['target']}, {machine['date']}")
    disturbance = Disturbance()
    # The processes first: they leave nothing behind, PyTorch its threads.
    if "processes" in args.parts:
        print_processes(args.threads, args.smoke)
    if "scaling" in args.parts:
        print_scaling(library, args.threads, args.layouts, effort)
    if "sizes" in args.parts:
        print_sizes(library, effort)
    if "torch" in args.parts:
        print_beside_torch(library, args.threads, effort)
    others = disturbance.share()
    if others is not None and others > MAX_DISTURBANCE:
        print(f"\nOther programs used {others:.0%} of the cores: repeat this on a quiet machine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
