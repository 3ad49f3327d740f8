"""The floor of an operation: the bytes it must move, timed as a plain stream of those bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from workload import CHANNELS_A_GROUP, Array, Case

from bnfast import _core

CACHE_LINE_BYTES = 64
STREAM_BYTES = 4  # the stream moves float32, whatever the dtype of the tensors

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Traffic:
    """Passes over the tensor, reads and writes counted apart since they cost differently."""

    reads: int
    writes: int

    def __str__(self) -> str:
        return f"{self.reads}R+{self.writes}W"

    def bytes_moved(self, tensor_bytes: int) -> int:
        return (self.reads + self.writes) * tensor_bytes


def hot_bytes(case: Case) -> int:
    """The part of one tensor that must stay in L2 from measuring it to normalising it."""
    shape, norm, itemsize = case.shape, case.operation.norm, case.dtype.itemsize
    # A statistic is taken over some channels of some rows.
    channels = {"layer": shape.channels, "rms": shape.channels, "group": CHANNELS_A_GROUP}
    rows = shape.rows if norm == "batch" else shape.rows // shape.batch
    width = channels.get(norm, 1) * itemsize
    if case.layout == "rows":
        # Memory comes in cache lines: the narrowest part of a row is a line wide.
        width = min(max(width, CACHE_LINE_BYTES), shape.channels * itemsize)
    return rows * width


def traffic(case: Case, l2_bytes: int) -> Traffic:
    """The least passes over memory for this operation, shape and layout."""
    operation = case.operation
    sweeps = 1 if hot_bytes(case) <= l2_bytes else 2
    reads = {"forward": sweeps, "backward": 2 * sweeps}.get(operation.kind, 1)
    writes = 1
    if operation.residual and operation.prologue:
        # Forward writes h, too, which backward reads in place of x.
        reads += operation.kind == "forward"
        writes += 1
    elif operation.residual:
        # Backward reads it once at most, too: the first sweep stores the masked dy as dresidual,
        # and the second one reads that in place of dy and the residual.
        reads += 1
        writes += operation.kind == "backward"
    return Traffic(reads, writes)


def _as_floats(array: Array) -> Floats:
    """The bytes of a contiguous array as float32, without a remainder of under four bytes."""
    raw = array.reshape(-1).view(np.uint8)
    return raw[: raw.size // STREAM_BYTES * STREAM_BYTES].view(np.float32)


def _take(count: int, own: list[Array], length: int) -> list[Floats]:
    """`count` distinct arrays, the operation's own first: caches are then as warm for the floor."""
    arrays = [_as_floats(array) for array in own[:count]]
    rng = np.random.default_rng(8)
    missing = range(count - len(arrays))
    return [*arrays, *(rng.standard_normal(length, dtype=np.float32) for _ in missing)]


def floor_call(case: Case, passes: Traffic, num_threads: int) -> Callable[[], object]:
    """A call that moves exactly the bytes of the floor, at this size, with these threads.

    The stream writes one array a call, so more writes are more calls that share out the reads.
    """
    length = case.nbytes // STREAM_BYTES
    sources = _take(passes.reads, case.inputs(), length)
    targets = _take(passes.writes, [case.out], length)
    shares = [sources[i :: len(targets)] for i in range(len(targets))]

    def call() -> None:
        for target, share in zip(targets, shares, strict=True):
            _core.stream(target, share, num_threads)

    return call
