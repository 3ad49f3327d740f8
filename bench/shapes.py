"""The one table of benchmark shapes: named groups of (name, batch, channels, spatial)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """One logical tensor; `spatial` is () for (N, C) inputs, else two axes (torch's layouts)."""

    name: str
    batch: int
    channels: int
    spatial: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Elements reduced per channel."""
        return self.batch * math.prod(self.spatial)

    @property
    def elements(self) -> int:
        return self.rows * self.channels

    def dims(self, layout: str) -> tuple[int, ...]:
        """The C-contiguous array shape: channels second for planes, last for rows."""
        if layout == "planes":
            return (self.batch, self.channels, *self.spatial)
        return (self.batch, *self.spatial, self.channels)

    def layouts(self, requested: list[str]) -> list[str]:
        """The layouts worth timing: without spatial axes, planes and rows are the same memory."""
        return requested if self.spatial else ["rows"]


def _images(batch: int, sides: dict[int, tuple[int, ...]]) -> tuple[Shape, ...]:
    """Square feature maps at one batch size, from {side: channel counts}."""
    return tuple(
        Shape(f"{channels}x{side}x{side}", batch, channels, (side, side))
        for side, counts in sides.items()
        for channels in counts
    )


def _matrices(*sizes: tuple[int, int]) -> tuple[Shape, ...]:
    return tuple(Shape(f"{batch}x{features}", batch, features, ()) for batch, features in sizes)


# Image networks are at batch 32 and 224x224 input.
GROUPS: dict[str, tuple[Shape, ...]] = {
    # Every distinct batch-norm shape of the network.
    "resnet50": _images(
        32,
        {
            112: (64,),
            56: (64, 128, 256),
            28: (128, 256, 512),
            14: (256, 512, 1024),
            7: (512, 2048),
        },
    ),
    # Every distinct batch-norm shape of the network: small and odd channel counts.
    "googlenet": _images(
        32,
        {
            112: (64,),
            56: (64, 192),
            28: (16, 32, 64, 96, 128, 192),
            14: (16, 24, 32, 48, 64, 96, 112, 128, 144, 160, 192, 208, 224, 256, 288, 320),
            7: (32, 48, 128, 160, 192, 256, 320, 384),
        },
    ),
    "mlp": _matrices((64, 512), (64, 4096), (128, 784), (256, 1024), (1024, 256), (8192, 512)),
    # Plain sizes for what has no channels: 16 MB and 100 MB of float32.
    "stream": _matrices((4000, 1000), (25_000, 1000)),
    # For the norms of a sample: rows of transformers, and two images.
    "norms": (
        *_matrices((8192, 768), (4096, 4096), (65_536, 128), (2048, 8192)),
        *_images(32, {56: (64, 256)}),
    ),
    # Where the cost of a call outweighs the cost of the data.
    "tiny": (*_matrices((32, 64)), Shape("4x4-batch8", 8, 16, (4, 4))),
    # Remainders of every vector width, few or very many channels, one sample.
    "odd": (
        Shape("3x57x57", 32, 3, (57, 57)),
        Shape("37x57x57", 32, 37, (57, 57)),
        Shape("257x13x11", 32, 257, (13, 11)),
        Shape("322x13x11", 32, 322, (13, 11)),
        Shape("800x7x7", 32, 800, (7, 7)),
        Shape("64x57x57-batch1", 1, 64, (57, 57)),
        Shape("one-long-channel", 10, 1, (1000, 1000)),
        Shape("10000-short-channels", 2, 10_000, (2, 2)),
        *_matrices((129, 37), (1000, 257)),
    ),
}


def select(groups: list[str]) -> list[tuple[str, Shape]]:
    """(group, shape) pairs of the named groups, "all" for every one; a shape is listed once."""
    names = list(GROUPS) if "all" in groups else groups
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise ValueError(f"group: got {', '.join(unknown)}, expected {', '.join(GROUPS)} or all")
    seen: set[Shape] = set()
    chosen: list[tuple[str, Shape]] = []
    for name in names:
        for shape in GROUPS[name]:
            if shape not in seen:
                seen.add(shape)
                chosen.append((name, shape))
    return chosen


def named(name: str) -> Shape:
    """The shape of that name, which is the same in every group."""
    return next(shape for _, shape in select(["all"]) if shape.name == name)
