"""What the machine can do at most: bandwidth of each level of memory, and arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from floors import Stream
from machine import usable_cores
from timing import MIN_SAMPLE_NS, measure, summarise

# As many as the stream takes: its one write goes past the caches, and must not be what is measured.
MOST_SOURCES = 8
# The stream gives each thread pieces of this size: below it, one thread works.
PIECE_BYTES = 1 << 20
MEMORY_BYTES = 64 << 20
SGEMM_SIDE = 2048
ROUNDS = 7


def l3_bytes(cpu: Path = Path("/sys/devices/system/cpu/cpu0")) -> int:
    """Of the cache that this core uses; 0 where the system does not tell."""
    try:
        for index in sorted(cpu.glob("cache/index*")):
            if (index / "level").read_text().strip() == "3":
                return int((index / "size").read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        pass
    return 0


def _seconds(call: Callable[[], object]) -> float:
    call()
    return summarise(measure({"call": call}, ROUNDS, MIN_SAMPLE_NS)["call"]).median


def _stream_gb_per_s(stream: Stream, array_bytes: int, sources: int, threads: int) -> float:
    # Distinct arrays: a source that is read twice would come from L1.
    arrays = [np.ones(array_bytes // 4, np.float32) for _ in range(sources + 1)]
    dst, srcs = arrays[0], arrays[1:]
    seconds = _seconds(lambda: stream(dst, srcs, threads))
    return sum(array.nbytes for array in arrays) / seconds / 1e9


def measure_roofs(stream: Stream, threads: int, l2_bytes: int) -> dict[str, object]:
    """GB/s of the threads together at each level, and GFLOP/s, for the JSON of run.py."""
    arrays = MOST_SOURCES + 1
    # Half of one core's L2. It is private to a core, so that others add theirs.
    in_l2 = _stream_gb_per_s(stream, l2_bytes // (2 * arrays), MOST_SOURCES, 1) * threads
    bandwidths = {"L2": in_l2}
    if threads * l2_bytes < arrays * threads * PIECE_BYTES <= l3_bytes() * 3 // 4:
        bandwidths["L3"] = _stream_gb_per_s(stream, threads * PIECE_BYTES, MOST_SOURCES, threads)
    bandwidths["memory"] = _stream_gb_per_s(stream, MEMORY_BYTES, 1, threads)
    return {"gb_per_s": bandwidths, "sgemm_gflop_per_s": _sgemm_gflop_per_s(threads)}


def _sgemm_gflop_per_s(threads: int) -> float | None:
    """NumPy's product of matrices, which uses all cores: none if fewer are asked for."""
    if threads != usable_cores():
        return None
    a = np.ones((SGEMM_SIDE, SGEMM_SIDE), np.float32)
    return 2 * SGEMM_SIDE**3 / _seconds(lambda: a @ a) / 1e9
