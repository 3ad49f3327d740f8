"""Draws what each norm's statistics are taken over: `python examples/norm_axes.py out.svg`.

x is drawn as a block of N samples, C channels and H W positions. The elements that share one mean
and one variance are blue; every other such set has a pair of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

SAMPLES, CHANNELS, POSITIONS = 4, 6, 5
CELL = 15  # pixels of a front edge
DEPTH_X, DEPTH_Y = 8, 6  # by how much the next sample lies to the right and up
LEFT, TOP, PANEL, HEIGHT = 40, 60, 180, 186
SHADES = {
    "front": ("#f4f4f4", "#3b8fc9"),
    "top": ("#ffffff", "#6db1de"),
    "side": ("#e4e4e4", "#1f6fb4"),
}

# Title, what is normalised together, and the blue samples, channels and positions. They lie in
# front, at the right and on top, where they can be seen.
FIRST, LAST, HALF = range(1), range(CHANNELS - 1, CHANNELS), range(CHANNELS // 2, CHANNELS)
N, C, P = range(SAMPLES), range(CHANNELS), range(POSITIONS)
PANELS = (
    ("batch norm", "a channel of all samples", (N, LAST, P)),
    ("instance norm", "a channel of a sample", (FIRST, LAST, P)),
    ("group norm", "some channels of a sample", (FIRST, HALF, P)),
    ("layer norm over C, H, W", "a sample", (FIRST, C, P)),
    ("layer, RMS norm over C", "a position: a token", (FIRST, C, FIRST)),
    ("both", "the mini-batch as a whole", (N, C, P)),
)


def point(channel: int, position: int, sample: int) -> tuple[int, int]:
    """Where a corner of the block is in the picture; position 0 is on top."""
    x = LEFT + CELL * channel + DEPTH_X * sample
    return x, TOP + CELL * position - DEPTH_Y * sample


def faces() -> Iterator[tuple[str, tuple[int, int, int], list[tuple[int, int]]]]:
    """The squares that can be seen: which face, of which element, and their corners."""
    for c in C:
        for p in P:
            corners = [point(c + i, p + j, 0) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
            yield "front", (0, c, p), corners
    for n in N:
        for c in C:
            corners = [point(c + i, 0, n + k) for i, k in ((0, 0), (1, 0), (1, 1), (0, 1))]
            yield "top", (n, c, 0), corners
        for p in P:
            corners = [point(CHANNELS, p + j, n + k) for j, k in ((0, 0), (0, 1), (1, 1), (1, 0))]
            yield "side", (n, CHANNELS - 1, p), corners


def text(x: float, y: float, words: str, size: int = 11, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}">{words}</text>'


def panel(title: str, meaning: str, blue: tuple[range, range, range]) -> Iterator[str]:
    yield '<g stroke="#888888" stroke-width="0.7" stroke-linejoin="round">'
    for face, element, corners in faces():
        chosen = all(index in indices for index, indices in zip(element, blue, strict=True))
        path = " ".join(f"{x},{y}" for x, y in corners)
        yield f'<polygon points="{path}" fill="{SHADES[face][chosen]}"/>'
    yield "</g>"
    bottom = TOP + CELL * POSITIONS
    yield text(PANEL / 2, 18, title, 13)
    yield text(LEFT + CELL * CHANNELS / 2, bottom + 15, "C")
    yield text(LEFT - 5, TOP + CELL * POSITIONS / 2 + 4, "H, W", anchor="end")
    x, y = point(CHANNELS, POSITIONS, SAMPLES // 2)
    yield text(x + 6, y + 10, "N", anchor="start")
    yield text(PANEL / 2, bottom + 40, meaning, 12)


def picture() -> Iterator[str]:
    width = PANEL * len(PANELS)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}"'
        f' viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif" fill="#222222">'
    )
    yield f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>'
    for place, contents in enumerate(PANELS):
        yield f'<g transform="translate({PANEL * place} 0)">'
        yield from panel(*contents)
        yield "</g>"
    yield "</svg>"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join([*picture(), ""]))
