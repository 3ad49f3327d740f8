"""What is timed: an operation on one shape, layout and dtype, with the arrays it needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapes import Shape

Array = NDArray[Any]

EPS = 1e-5
RATE = 0.5  # of dropout
SEED = 1
CHANNELS_A_GROUP = 8  # of group norm: 256 channels are 32 groups


@dataclass(frozen=True)
class Operation:
    """A pass of a norm and what is fused with it, or dropout alone."""

    # "forward" (training), "backward", "inference"; "dropout", "dropout_backward"
    kind: str
    residual: bool = False
    relu: bool = False
    dropout: bool = False  # fused with the norm
    norm: str = "batch"  # "layer", "rms", "group", "instance"

    @property
    def name(self) -> str:
        norm = [] if self.norm == "batch" else [self.norm]
        fused = {"residual": self.residual, "relu": self.relu, "dropout": self.dropout}
        return "_".join([*norm, self.kind, *(name for name, present in fused.items() if present)])

    @property
    def prologue(self) -> bool:
        """Residual and dropout stand before the norm, h = residual + drop(x), not behind it."""
        return self.norm in ("layer", "rms")

    def suits(self, shape: Shape) -> bool:
        """Layer and RMS norm are timed on matrices, group and instance norm on images."""
        if self.norm == "group" and shape.channels % CHANNELS_A_GROUP:
            return False
        return self.norm == "batch" or self.prologue != bool(shape.spatial)

    @property
    def elementwise(self) -> bool:
        """Without channels: the layouts are the same memory and the same work."""
        return self.kind.startswith("dropout")

    @property
    def random(self) -> bool:
        """The result depends on a mask that each library draws for itself."""
        return self.kind == "dropout" or (self.kind == "forward" and self.dropout)


_BATCH_NORM = [
    operation
    for kind in ("forward", "backward", "inference")
    for operation in (
        Operation(kind),
        Operation(kind, relu=True),
        Operation(kind, residual=True, relu=True),
    )
]
_DROPOUT = [
    Operation("forward", relu=True, dropout=True),
    Operation("backward", relu=True, dropout=True),
    Operation("dropout"),
    Operation("dropout_backward"),
]
_NORMS = [
    operation
    for norm in ("layer", "rms", "group", "instance")
    for operation in (
        Operation("forward", norm=norm),
        Operation("backward", norm=norm),
        Operation("forward", residual=True, dropout=True, norm=norm),
        Operation("backward", residual=True, dropout=True, norm=norm),
    )
    if operation.prologue or not operation.residual
]
OPERATIONS = {operation.name: operation for operation in (*_BATCH_NORM, *_DROPOUT, *_NORMS)}

DTYPES = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Case:
    """One workload. Arrays are made on first use, so an operation holds only those it touches."""

    operation: Operation
    shape: Shape
    layout: str  # "planes": channels second; "rows": channels last
    dtype_name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.dtype_name == "bfloat16":
            import ml_dtypes  # only this dtype needs the package

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(self.dtype_name)

    @property
    def nbytes(self) -> int:
        return self.shape.elements * self.dtype.itemsize

    @property
    def axis(self) -> int:
        """The channel axis."""
        return 1 if self.layout == "planes" else -1

    def grouped(self, array: Array) -> Array:
        """The array with an axis for the groups of group norm: statistics are over whole axes."""
        if self.operation.norm != "group":
            return array
        dims = list(array.shape)
        at = self.axis % array.ndim
        dims[at : at + 1] = [dims[at] // CHANNELS_A_GROUP, CHANNELS_A_GROUP]
        return array.reshape(dims)

    @property
    def reduced_axes(self) -> tuple[int, ...]:
        """The axes of grouped(x) that a statistic is taken over."""
        kept = set() if self.operation.norm == "batch" else {0}
        if not self.operation.prologue:
            kept.add(self.axis % self.x.ndim)
        return tuple(axis for axis in range(self.grouped(self.x).ndim) if axis not in kept)

    def broadcast(self, per_channel: Any) -> Any:
        """One number a channel, in a shape that broadcasts against x."""
        dims = [1] * self.x.ndim
        dims[self.axis] = -1
        return per_channel.reshape(dims)

    @property
    def channel_dtype(self) -> type[np.floating[Any]]:
        return np.float64 if self.dtype_name == "float64" else np.float32

    def _normal(self, seed: int) -> Array:
        # float32 draws in every dtype: comparable data, and float64 arrays whose bytes, read as
        # float32 by the floor's kernel, hold no denormals (which would slow its additions).
        dims = self.shape.dims(self.layout)
        values = np.random.default_rng(seed).standard_normal(dims, dtype=np.float32)
        return values.astype(self.dtype, copy=False)

    def _per_channel(self, seed: int, low: float, high: float) -> Array:
        rng = np.random.default_rng(seed)
        return rng.uniform(low, high, self.shape.channels).astype(self.channel_dtype)

    @cached_property
    def x(self) -> Array:
        return self._normal(1)

    @cached_property
    def dy(self) -> Array:
        return self._normal(2)

    @cached_property
    def residual(self) -> Array | None:
        return self._normal(3) if self.operation.residual else None

    @cached_property
    def out(self) -> Array:
        """The destination of every call that writes into a given array."""
        return np.zeros_like(self.x)

    @cached_property
    def gamma(self) -> Array:
        return self._per_channel(4, 0.5, 1.5)

    @cached_property
    def beta(self) -> Array:
        return self._per_channel(5, -0.5, 0.5)

    @cached_property
    def mean(self) -> Array:
        return self._per_channel(6, -0.5, 0.5)

    @cached_property
    def var(self) -> Array:
        return self._per_channel(7, 0.5, 1.5)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The elements that bnfast keeps, for a peer whose backward takes the mask."""
        import bnfast

        return bnfast.dropout_mask(self.shape.dims(self.layout), RATE, seed=SEED)

    def inputs(self) -> list[Array]:
        """The large arrays that the operation reads."""
        if self.operation.kind == "dropout_backward":
            return [self.dy]
        dy = [self.dy] if self.operation.kind == "backward" else []
        residual = [] if self.residual is None else [self.residual]
        return [self.x, *dy, *residual]


class Library(ABC):
    """What is compared: a library on a number of threads, which its constructor takes."""

    name: str
    version: str

    @abstractmethod
    def calls(self, case: Case) -> dict[str, Callable[[], Any]]:
        """What is timed: "out" writes into a given array, "fresh" allocates its result.

        Empty where the library has no such operation.
        """

    def result(self, returned: Any, case: Case) -> Array:
        """Y or dx, laid out as case.x, from what a call has returned."""
        array: Array = returned
        return array
