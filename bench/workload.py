"""What is timed: an operation on one shape, layout and dtype, with the arrays it needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapes import Shape

Array = NDArray[Any]

EPS = 1e-5
# Of every dropout, fused or not: the rate at which a mask costs the most random bits to get right.
RATE = 0.5
SEED = 1


@dataclass(frozen=True)
class Operation:
    """A batch-norm pass and what is fused with it, or dropout alone."""

    # "forward" (training), "backward", "inference"; "dropout", "dropout_backward"
    kind: str
    residual: bool = False
    relu: bool = False
    dropout: bool = False  # fused with batch norm

    @property
    def name(self) -> str:
        fused = {"residual": self.residual, "relu": self.relu, "dropout": self.dropout}
        return "_".join([self.kind, *(name for name, present in fused.items() if present)])

    @property
    def elementwise(self) -> bool:
        """Without channels: the layouts are the same memory and the same work."""
        return self.kind.startswith("dropout")

    @property
    def random(self) -> bool:
        """The result depends on a mask that each library draws for itself."""
        return self.kind == "dropout" or (self.kind == "forward" and self.dropout)


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        *(
            operation
            for kind in ("forward", "backward", "inference")
            for operation in (
                Operation(kind),
                Operation(kind, relu=True),
                Operation(kind, residual=True, relu=True),
            )
        ),
        Operation("forward", relu=True, dropout=True),
        Operation("backward", relu=True, dropout=True),
        Operation("dropout"),
        Operation("dropout_backward"),
    )
}

DTYPES = ("float32", "float64", "float16", "bfloat16")


def numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes  # only this dtype needs the package

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


@dataclass(frozen=True)
class Case:
    """One workload. Arrays are made on first use, so an operation holds only those it touches."""

    operation: Operation
    shape: Shape
    layout: str
    dtype_name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.dtype_name)

    @property
    def nbytes(self) -> int:
        return self.shape.elements * self.dtype.itemsize

    @property
    def axis(self) -> int:
        return 1 if self.layout == "planes" else -1

    @property
    def activation(self) -> str | None:
        return "relu" if self.operation.relu else None

    @property
    def channel_dtype(self) -> type[np.floating[Any]]:
        return np.float64 if self.dtype_name == "float64" else np.float32

    def _normal(self, seed: int) -> Array:
        # float32 draws in every dtype: comparable data, and float64 arrays whose bytes, read as
        # float32 by the floor's kernel, hold no denormals (which would slow its additions).
        values = np.random.default_rng(seed).standard_normal(
            self.shape.dims(self.layout), dtype=np.float32
        )
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
        """The destination of every contender that writes into a given array."""
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
        import bnfast  # a case without dropout needs no library

        return bnfast.dropout_mask(self.shape.dims(self.layout), RATE, seed=SEED)

    def inputs(self) -> list[Array]:
        """The large arrays that the operation reads."""
        if self.operation.kind == "dropout_backward":
            return [self.dy]
        arrays = [self.x]
        if self.operation.kind == "backward":
            arrays.append(self.dy)
        if self.residual is not None:
            arrays.append(self.residual)
        return arrays
