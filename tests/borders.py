"""Shapes on both sides of each border of the schedule, derived from the library's own thresholds.

The library walks, groups and shares out tensors in other ways below and above sizes that were
measured. Tests that name such sizes themselves would pass without testing anything once a size is
measured anew.
"""

from __future__ import annotations

import bnfast

THRESHOLDS = bnfast._core.thresholds()
Shape = tuple[tuple[int, ...], int]  # and the channel axis


def around(name: str, divisor: int = 1) -> list[int]:
    """The last number below a threshold (or a part of it), the threshold, and the next number."""
    middle = THRESHOLDS[name] // divisor
    return [max(1, middle + step) for step in (-1, 0, 1)]


def planes() -> list[Shape]:
    """Channels first: (outer, channels, inner)."""
    t = THRESHOLDS
    few, many, lanes = t["many_planes"] - 1, t["many_planes"], t["lanes"]
    shapes = [
        # Planes so short that several are walked at once: less than a vector, and more.
        *((few, 5, inner) for inner in around("short_plane")),
        *((outer, 5, inner) for inner in around("short_plane_of_many") for outer in (few, many)),
        *((many, 7, inner) for inner in range(2, lanes + 2)),  # each size has a loop of its own
        # Blocks of several planes, of short ones, and planes of several blocks.
        *((outer, 3, 100) for outer in around("block_elements", 100)),
        *((outer, 3, lanes - 1) for outer in around("block_rows")),
        *((2, 3, inner) for inner in around("block_elements")),
        (2, 2, 2 * t["block_elements"] + 1),
        # Many planes, short and long.
        *((2, 70, inner) for inner in (t["short_plane"] - 1, 5 * lanes)),
        *((2, 4, inner) for inner in around("block_elements", 2)),
    ]
    return [(shape, 1) for shape in shapes]


def rows() -> list[Shape]:
    """Channels last: (outer, channels)."""
    t = THRESHOLDS
    lanes, narrow = t["lanes"], t["narrow_rows"] - 1
    shapes = [
        *((3 * t["rows_in_flat"] + 1, channels) for channels in range(2, t["narrow_rows"] + 2)),
        *((outer, narrow) for outer in around("rows_in_flat")),
        *((outer, 2) for outer in around("block_rows")),
        *((outer, 2 * lanes + 1) for outer in around("block_rows")),
        # Bits of dropout are made for a portion at once, which is part of a row, or several rows.
        *((9, channels) for channels in around("portion")),
        *((9, channels) for channels in around("portion", 2)),
        *((13, k * t["portion"]) for k in (2, 3, 4)),
        *((13, k * lanes) for k in (1, 2, 5)),
        (t["block_rows"] + 1, 4 * lanes),
        (9, 8 * t["portion"] + 1),
    ]
    return [(shape, -1) for shape in shapes]


def shared_by_threads() -> list[Shape]:
    """Tensors of so much work that threads share it, and of more than their caches hold."""
    serial = THRESHOLDS["serial_elements"]
    elements = THRESHOLDS["private_cache_bytes"] // 4  # of float32
    return [
        *(((4, 8, inner), 1) for inner in around("serial_elements", 32)),
        *(((outer, 16), -1) for outer in around("serial_elements", 16)),
        ((serial + 7, 3), -1),
        ((1, 2 * serial + 1), 1),
        # Many channels of few elements, which threads take by groups.
        ((5, serial // 4 + 3), 1),
        ((70, serial // 16), 1),
        ((2, serial // 8, 2, 2), 1),
        ((1, serial // 32, 7, 7), 1),
        # Few channels, of which threads take planes or parts of them.
        ((24, 2, serial // 8), 1),
        ((9, 1, serial // 2 + 1), 1),
        ((serial // 16, 3, 5, 5), 1),
        # What fits in the cache of a core, and what does not.
        *(((8, 24, k * elements // (4 * 8 * 24)), 1) for k in (3, 8)),
        *(((k * elements // (4 * 40), 40), -1) for k in (3, 8)),
        ((elements // (60 * 9), 60, 3, 3), 1),
    ]


SMALL = [*planes(), *rows()]
LARGE = shared_by_threads()
