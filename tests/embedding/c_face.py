"""The structs and functions of bnfast/bnfast.h for ctypes, which is how any language calls them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import bnfast

LIBRARY = next(Path(bnfast.get_include()).parent.joinpath("lib").glob("libbnfast.*"), None)
needs_library = pytest.mark.skipif(LIBRARY is None, reason="the library is not installed")

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.bool_]  # bnfast_dtype
ERRORS = {1: ValueError, 2: TypeError, 3: MemoryError, 4: RuntimeError}  # bnfast_status
POINTER = ctypes.c_void_p


class Struct(ctypes.Structure):
    """A struct that begins with its size, and knows the arrays that it points to."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(ctypes.sizeof(self), **{k: address(v) for k, v in fields.items()})
        self.kept = fields


def address(value: Any) -> Any:
    """What a field or an argument holds for an array or another struct."""
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    if isinstance(value, ctypes.Structure | ctypes.Array):
        return ctypes.addressof(value)
    return value


def struct(name: str, **fields: Any) -> type[Struct]:
    members = [("size", ctypes.c_size_t), *fields.items()]
    return type(name, (Struct,), {"_fields_": members})


Tensor = struct(
    "Tensor",
    **dict.fromkeys(("data", "shape", "strides"), POINTER),
    **dict.fromkeys(("ndim", "dtype", "device", "device_index"), ctypes.c_int32),
    stream=POINTER,
)
NormOptions = struct(
    "NormOptions",
    **dict.fromkeys(("eps", "activation_slope", "dropout"), ctypes.c_double),
    **dict.fromkeys(("seed", "offset"), ctypes.c_uint64),
    **dict.fromkeys(("axis", "eps_placement", "activation", "reserved"), ctypes.c_int32),
)
NormInputs = struct(
    "NormInputs",
    **dict.fromkeys(("x", "gamma", "beta", "residual", "where", "state_numbers"), POINTER),
)
NormBackwardInputs = struct(
    "NormBackwardInputs", **dict.fromkeys(("x", "residual", "where", "dy", "dh"), POINTER)
)
NormGradients = struct(
    "NormGradients", **dict.fromkeys(("dx", "dresidual", "dgamma", "dbeta"), POINTER)
)
Moments = struct(
    "Moments",
    channels=ctypes.c_int64,
    **dict.fromkeys(("count", "mean", "mean_low", "m2"), POINTER),
)
GradientSums = struct(
    "GradientSums",
    channels=ctypes.c_int64,
    **dict.fromkeys(("count", "sum_dy", "sum_dy_xmu"), POINTER),
)
DropoutOptions = struct(
    "DropoutOptions",
    rate=ctypes.c_double,
    seed=ctypes.c_uint64,
    offset=ctypes.c_uint64,
    broadcast_axes=POINTER,
    num_broadcast_axes=ctypes.c_int32,
    mode=ctypes.c_int32,
)


def tensor(array: np.ndarray | None, strides: bool = True) -> Struct | None:
    """An array as a bnfast_tensor; without strides it is taken to be in C order."""
    if array is None:
        return None
    return Tensor(
        data=array.ctypes.data,
        shape=np.array(array.shape, np.int64),
        strides=np.array(array.strides, np.int64) if strides else None,
        ndim=array.ndim,
        dtype=DTYPES.index(array.dtype.type),
    )


def moments(channels: int, values: bnfast.Moments | None = None) -> Struct:
    """Arrays for statistics of so many channels, which hold `values`."""
    fields = {"count": np.zeros(channels, np.int64)}
    fields |= {name: np.zeros(channels) for name in ("mean", "mean_low", "m2")}
    return _filled(Moments, fields, values)


def gradient_sums(channels: int, values: bnfast.GradientSums | None = None) -> Struct:
    fields = {"count": np.zeros(channels, np.int64)}
    fields |= {name: np.zeros(channels) for name in ("sum_dy", "sum_dy_xmu")}
    return _filled(GradientSums, fields, values)


def _filled(kind: type[Struct], fields: dict[str, np.ndarray], values: Any) -> Struct:
    for name, array in fields.items():
        array[:] = getattr(values, name) if values is not None else 0
    return kind(channels=len(fields["count"]), **fields)


def arrays_of(struct: Struct, like: bnfast.Moments | bnfast.GradientSums) -> list[np.ndarray]:
    """The arrays that a struct points to, in the order of the Python object."""
    return [struct.kept[name] for name in ("count", *like._values)]


def function(name: str, result: Any = ctypes.c_int) -> Any:
    found = getattr(ctypes.CDLL(str(LIBRARY)), f"bnfast_{name}")
    found.restype = result
    return found


def call(name: str, *arguments: Any) -> None:
    """Call a function that returns a status, and raise what it stands for.

    Arguments are structs, arrays, floats, numbers of a ctypes type, int for int32, or None.
    """
    kinds = {int: ctypes.c_int32, float: ctypes.c_double}
    given = [kinds.get(type(a), lambda value: value)(a) for a in arguments]
    given = [a if isinstance(a, ctypes._SimpleCData) else POINTER(address(a)) for a in given]
    status = function(name)(*given)
    if status:
        raise ERRORS[status](function("last_error", ctypes.c_char_p)().decode())


def norm_options(**fields: Any) -> Struct:
    options = NormOptions()
    call("norm_options_init", options, ctypes.c_size_t(ctypes.sizeof(options)))
    for name, value in fields.items():
        setattr(options, name, value)
    return options


def state_for(name: str, x: np.ndarray, *arguments: Any) -> tuple[np.ndarray, ctypes.c_size_t]:
    """Memory for a state, and its size: the last two arguments of forward."""
    size = np.zeros(1, np.uintp)
    call(f"{name}_state_bytes", tensor(x), *arguments, size)
    return np.zeros(size[0] // 8, np.float64), ctypes.c_size_t(int(size[0]))


def int32s(values: Sequence[int]) -> np.ndarray:
    return np.array(values, np.int32)
