"""The floor of an operation: the bytes it must move, timed as a plain stream of those bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from workload import Array, Case

CACHE_LINE_BYTES = 64
# Used where the system does not tell; the smallest L2 of current server cores.
FALLBACK_L2_BYTES = 1 << 20
STREAM_BYTES = 4  # the stream kernel moves float32, whatever the dtype of the tensors

Floats = NDArray[np.float32]


class Stream(Protocol):
    """dst[i] = sum of srcs[i]: each source read once, dst written once without being read."""

    def __call__(self, dst: Floats, srcs: list[Floats], num_threads: int, /) -> object: ...


@dataclass(frozen=True)
class Traffic:
    """Passes over the tensor, reads and writes counted apart since they cost differently."""

    reads: int
    writes: int

    def __str__(self) -> str:
        return f"{self.reads}R+{self.writes}W"

    def bytes_moved(self, tensor_bytes: int) -> int:
        return (self.reads + self.writes) * tensor_bytes


def _cpu_count(cpu_list: str) -> int:
    """Number of CPUs in a kernel list such as "0-3,8"."""
    total = 0
    for part in cpu_list.strip().split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def l2_bytes_per_core(cpu: Path = Path("/sys/devices/system/cpu/cpu0")) -> int:
    """One core's share of the L2 cache it uses; hardware threads of a core count as one."""
    try:
        siblings = _cpu_count((cpu / "topology/thread_siblings_list").read_text())
        for index in sorted(cpu.glob("cache/index*")):
            if (index / "level").read_text().strip() == "2":
                kibibytes = int((index / "size").read_text().strip().removesuffix("K"))
                cores = max(1, _cpu_count((index / "shared_cpu_list").read_text()) // siblings)
                return kibibytes * 1024 // cores
    except (OSError, ValueError):
        pass
    if hasattr(os, "sysconf") and "SC_LEVEL2_CACHE_SIZE" in os.sysconf_names:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE") or FALLBACK_L2_BYTES
    return FALLBACK_L2_BYTES


def hot_bytes(case: Case) -> int:
    """The part of one tensor that must stay in L2 between the statistics and the apply sweep."""
    if case.layout == "planes":
        return case.shape.rows * case.dtype.itemsize
    # Channels last, memory comes in cache lines: the narrowest group of channels is a line wide.
    row_bytes = case.shape.channels * case.dtype.itemsize
    return case.shape.rows * min(CACHE_LINE_BYTES, row_bytes)


def traffic(case: Case, l2_bytes: int) -> Traffic:
    """The least passes over memory for this operation, shape and layout."""
    operation = case.operation
    sweeps = 1 if hot_bytes(case) <= l2_bytes else 2
    if operation.kind == "inference" or operation.elementwise:
        reads, writes = 1, 1
    elif operation.kind == "forward":
        reads, writes = sweeps, 1
    else:
        reads, writes = 2 * sweeps, 1
    if operation.residual:
        # Read once in every case: a long backward can sweep the masked dy, which it stores as
        # dresidual, in place of dy and the residual.
        reads += 1
        writes += operation.kind == "backward"
    return Traffic(reads, writes)


def _as_floats(array: NDArray[Any]) -> Floats:
    """The bytes of a contiguous array as float32, without a remainder of under four bytes."""
    raw = array.reshape(-1).view(np.uint8)
    return raw[: raw.size // STREAM_BYTES * STREAM_BYTES].view(np.float32)


def _take(count: int, own: Sequence[Array], length: int) -> list[Floats]:
    """`count` distinct arrays, the operation's own first: caches are then as warm for the floor."""
    arrays = [_as_floats(array) for array in own[:count]]
    rng = np.random.default_rng(8)
    while len(arrays) < count:
        arrays.append(rng.standard_normal(length, dtype=np.float32))
    return arrays


def floor_call(
    case: Case, passes: Traffic, stream: Stream, num_threads: int
) -> Callable[[], object]:
    """A call that moves exactly the bytes of the floor, at this size, with these threads.

    The stream writes one array a call, so more writes are more calls that share out the reads.
    """
    length = case.nbytes // STREAM_BYTES
    srcs = _take(passes.reads, case.inputs(), length)
    dsts = _take(passes.writes, [case.out], length)
    shares = [srcs[i :: len(dsts)] for i in range(len(dsts))]

    def call() -> None:
        for dst, share in zip(dsts, shares, strict=True):
            stream(dst, share, num_threads)

    return call
