"""A short look at this machine: ``python -m bnfast.bench`` times the kernels beside a plain stream.

It needs NumPy alone; PyTorch is timed as well where it is installed. The table shows the time of a
call that writes into a given array, the bytes that it must move at least over that time, and the
ratio of the time to that of a plain stream of the same bytes (1 is perfect). The last column is
PyTorch's time over ours, where both allocate their result.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bnfast
from bnfast import _core

Floats = NDArray[np.float32]
Call = Callable[[], object]

SHAPES = ((32, 64, 56, 56), (32, 256, 14, 14), (32, 64))
OPERATIONS = ("forward", "backward", "inference", "dropout")
RATE = 0.5
STREAM_BYTES = 64 << 20
CACHE_LINE_BYTES = 64
# A call is repeated until a sample lasts this long, or the clock and interrupts would drown it.
SAMPLE_SECONDS = 200e-6


@dataclass(frozen=True)
class Effort:
    """How long one line of the table may take."""

    rounds: int
    seconds: float  # no further round after this time, but three in every case
    torch: bool


FULL = Effort(rounds=25, seconds=0.5, torch=True)
QUICK = Effort(rounds=3, seconds=0.0, torch=False)
LEAST_ROUNDS = 3


class Case:
    """The arrays of one shape, channels first or last, and its calls."""

    def __init__(self, shape: tuple[int, ...], last: bool) -> None:
        batch, channels, *spatial = shape
        rng = np.random.default_rng(1)
        self.shape = shape
        self.last = last
        self.axis = -1 if last else 1
        dims = (batch, *spatial, channels) if last else shape
        self.x: Floats = rng.standard_normal(dims, dtype=np.float32)
        self.dy: Floats = rng.standard_normal(dims, dtype=np.float32)
        self.out: Floats = np.zeros_like(self.x)
        self.gamma: Floats = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        self.beta: Floats = rng.uniform(-0.5, 0.5, channels).astype(np.float32)
        self.mean: Floats = rng.uniform(-0.5, 0.5, channels).astype(np.float32)
        self.var: Floats = rng.uniform(0.5, 1.5, channels).astype(np.float32)

    @property
    def layout(self) -> str:
        if len(self.shape) == 2:
            return "matrix"
        return "channels last" if self.last else "channels first"

    def passes(self, operation: str) -> tuple[int, int]:
        """Return the fewest reads and writes of the tensor, as bench/README.md explains."""
        rows = self.x.size // self.shape[1]
        # What must stay in a core's cache between the statistics and the second sweep: a channel,
        # or with channels last as many as share a cache line.
        wide = self.last or len(self.shape) == 2
        hot = rows * (CACHE_LINE_BYTES if wide else self.x.itemsize)
        sweeps = 1 if hot <= _core.private_cache_bytes() else 2
        return {"forward": sweeps, "backward": 2 * sweeps}.get(operation, 1), 1

    def stream(self, operation: str, threads: int) -> Call:
        """Return a plain stream with the passes of the operation, over arrays of its size."""
        spare = [self.x, self.dy, np.ones_like(self.x), np.ones_like(self.x)]
        reads, _ = self.passes(operation)
        sources = [array.reshape(-1) for array in spare[:reads]]
        return partial(_core.stream, self.out.reshape(-1), sources, threads)

    def ours(self, operation: str, out: Floats | None) -> Call:
        """Return the call of bnfast; `out` None allocates the result."""
        x, dy, gamma, beta, axis = self.x, self.dy, self.gamma, self.beta, self.axis
        if operation == "forward":
            return lambda: bnfast.batch_norm(x, gamma, beta, axis=axis, out=out)
        if operation == "backward":
            _, ctx = bnfast.batch_norm(x, gamma, beta, axis=axis)
            return lambda: bnfast.batch_norm_backward(dy, ctx, out=out)
        if operation == "inference":
            mean, var = self.mean, self.var
            return lambda: bnfast.batch_norm_inference(
                x, mean, var, gamma, beta, axis=axis, out=out
            )
        return lambda: bnfast.dropout(x, RATE, seed=1, out=out)

    def torch(self, operation: str, torch: Any) -> Call:
        """Return PyTorch's call on the same memory; channels last is its own format for it."""

        def tensor(array: Floats) -> Any:
            whole = torch.from_numpy(array)
            return whole.movedim(-1, 1) if self.last and array.ndim > 2 else whole

        x, dy = tensor(self.x), tensor(self.dy)
        weight, bias = torch.from_numpy(self.gamma), torch.from_numpy(self.beta)
        batch_norm = torch.nn.functional.batch_norm
        if operation == "forward":
            return lambda: batch_norm(x, None, None, weight, bias, training=True)
        if operation == "backward":
            _, mean, invstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, 1e-5)
            backward = torch.ops.aten.native_batch_norm_backward
            wanted = [True, True, True]
            return lambda: backward(dy, x, weight, None, None, mean, invstd, True, 1e-5, wanted)
        if operation == "inference":
            given = torch.from_numpy(self.mean), torch.from_numpy(self.var)
            return lambda: batch_norm(x, *given, weight, bias)
        return lambda: torch.nn.functional.dropout(x, RATE, True)


def _seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _measure(calls: dict[str, Call], effort: Effort) -> dict[str, list[float]]:
    """Return seconds a call, one a round; each round runs all calls, so that drift hits all."""
    repeats = {}
    for name, call in calls.items():
        _seconds(call, 1)  # page faults and thread creation
        repeats[name] = math.ceil(SAMPLE_SECONDS / max(_seconds(call, 1), 1e-7))
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    start = time.perf_counter()
    for index in range(effort.rounds):
        if index >= LEAST_ROUNDS and time.perf_counter() - start > effort.seconds:
            break
        for name in names if index % 2 == 0 else reversed(names):
            if repeats[name] > 1:  # short calls are timed in their steady state
                _seconds(calls[name], repeats[name])
            found[name].append(_seconds(calls[name], repeats[name]))
    return found


def _ratio(numerator: list[float], denominator: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def _line(case: Case, operation: str, threads: int, effort: Effort, torch: Any) -> str:
    calls = {"floor": case.stream(operation, threads), "out": case.ours(operation, case.out)}
    if torch is not None:
        calls["fresh"] = case.ours(operation, None)
        calls["torch"] = case.torch(operation, torch)
    seconds = _measure(calls, effort)
    median = statistics.median(seconds["out"])
    reads, writes = case.passes(operation)
    peer = f"{_ratio(seconds['torch'], seconds['fresh']):13.2f}" if torch is not None else ""
    return (
        f"{case.shape!s:18} {case.layout:14} {operation:9} {f'{reads}R+{writes}W':>6}"
        f" {median * 1e3:9.4g} {(reads + writes) * case.x.nbytes / median / 1e9:7.1f}"
        f" {_ratio(seconds['out'], seconds['floor']):11.2f}{peer}"
    )


def _streaming_gb_per_s(threads: int, effort: Effort) -> float:
    source = np.ones(STREAM_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    call = partial(_core.stream, target, [source], threads)
    seconds = statistics.median(_measure({"stream": call}, effort)["stream"])
    return 2 * STREAM_BYTES / seconds / 1e9


@contextmanager
def _torch(wanted: bool, threads: int) -> Iterator[Any]:
    """Give PyTorch with so many threads and without gradients, or None."""
    try:
        # By name: the package neither needs PyTorch nor wraps it here.
        torch = importlib.import_module("torch") if wanted else None
    except (ImportError, OSError):
        torch = None
    if torch is None:
        yield None
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            yield torch
    finally:
        torch.set_num_threads(before)


def main(argv: list[str] | None = None) -> None:
    """Time the kernels on this machine and print a table.

    Parameters
    ----------
    argv : list of str, optional
        The command line without the program's name; by default that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bnfast.bench", description="Times bnfast on this machine."
    )
    parser.add_argument("--threads", type=int, default=bnfast.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="three rounds, without PyTorch")
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error(f"--threads: got {args.threads}, expected at least 1")
    effort = QUICK if args.quick else FULL
    with bnfast.num_threads(args.threads), _torch(effort.torch, args.threads) as torch:
        peer = "" if torch is None else f", PyTorch {torch.__version__}"
        print(
            f"bnfast {bnfast.__version__}, {bnfast.active_target()}, threads: {args.threads}{peer}"
        )
        rate = _streaming_gb_per_s(args.threads, effort)
        print(f"streaming, {STREAM_BYTES >> 20} MiB read and as many written: {rate:.1f} GB/s\n")
        print(
            f"{'shape (N, C, ...)':18} {'layout':14} {'operation':9} {'moves':>6} {'ms':>9}"
            f" {'GB/s':>7} {'time/floor':>11}{'' if torch is None else ' torch/bnfast'}"
        )
        for shape in SHAPES:
            for last in (False, True) if len(shape) > 2 else (False,):
                case = Case(shape, last)
                for operation in OPERATIONS:
                    print(_line(case, operation, args.threads, effort, torch), flush=True)


if __name__ == "__main__":
    main()
