"""Arrays of a library of our own whose memory is the host's, and which say that it is a GPU's."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
from dlpack.structs import CUDA, Tensor, Versioned, new_capsule

pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
pointer_of.restype = ctypes.c_void_p
pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)
rename = ctypes.pythonapi.PyCapsule_SetName
rename.argtypes = (ctypes.py_object, ctypes.c_char_p)
USED = b"used_dltensor_versioned"


class Array:
    """NumPy's array as one on a GPU.

    Attributes
    ----------
    streams : list
        The streams on which others have asked to read it, latest last.
    """

    def __init__(self, array: np.ndarray, index: int = 0) -> None:
        self.array, self.index = array, index
        self.dtype, self.shape, self.ndim = array.dtype, array.shape, array.ndim
        self.streams: list[int | None] = []
        self.lent: list[Any] = []  # what capsules refer to: a test is short

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.index

    def __dlpack__(self, *, stream: int | None = None, max_version: Any = None) -> Any:
        assert max_version == (1, 0)
        self.streams.append(stream)
        a = self.array
        many = ctypes.c_int64 * max(a.ndim, 1)
        steps = (stride // a.itemsize for stride in a.strides)
        tensor = Tensor(
            *(a.ctypes.data, CUDA, self.index, a.ndim, 6 if a.dtype == bool else 2, 8 * a.itemsize),
            *(1, many(*a.shape), many(*steps), 0),
        )
        deleter = Versioned._fields_[3][1]()
        self.lent.append(Versioned(1, 0, None, deleter, 0, tensor))
        return new_capsule(ctypes.addressof(self.lent[-1]), b"dltensor_versioned", None)

    def __array_namespace__(self) -> Any:
        return sys.modules[__name__]


class Owner:
    """What was taken out of a capsule, given back when nobody needs it any more."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def __del__(self) -> None:
        self.tensor.deleter(ctypes.addressof(self.tensor))


CONSUMER = 7  # the stream on which arrays are taken


def from_dlpack(offer: Any) -> Array:
    """Take the memory that is offered as an array."""
    kind, index = offer.__dlpack_device__()
    assert kind == CUDA
    capsule = offer.__dlpack__(stream=CONSUMER, max_version=(1, 0))
    taken = Versioned.from_address(pointer_of(capsule, b"dltensor_versioned"))
    rename(capsule, USED)
    return array_of(taken, index)


def array_of(taken: Versioned, index: int) -> Array:
    """Make a tensor with its owner an array."""
    t = taken.tensor
    assert (t.device_type, t.device_index) == (CUDA, index)
    dtype = np.dtype(f"f{t.bits // 8}" if t.code == 2 else bool)
    shape, strides = t.shape[: t.ndim], [s * dtype.itemsize for s in t.strides[: t.ndim]]
    if not np.prod(shape):
        Owner(taken)
        return Array(np.empty(shape, dtype), index)
    reach = dtype.itemsize + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    memory = (ctypes.c_char * reach).from_address(t.data)
    memory.owner = Owner(taken)  # type: ignore[attr-defined]  # lives as long as arrays of it
    return Array(np.ndarray(shape, dtype, memory, 0, strides), index)
