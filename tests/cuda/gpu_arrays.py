"""Arrays on a GPU that need no library: NumPy's values in memory of a device, lent by DLPack."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
from dlpack.test_capsules import Tensor, Versioned, lengths, new_capsule
from gpu_memory import memory

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT, BFLOAT, BOOL = 2, 4, 6  # as DLPack numbers types
Array = np.ndarray[Any, Any]

take_pointer = ctypes.pythonapi.PyCapsule_GetPointer
take_pointer.restype = ctypes.c_void_p
take_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
rename = ctypes.pythonapi.PyCapsule_SetName
rename.argtypes = (ctypes.py_object, ctypes.c_char_p)
VERSIONED, USED = b"dltensor_versioned", b"used_dltensor_versioned"

lent: dict[int, Any] = {}  # what others hold, by a number that their deleter is given


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def give_back(address: int) -> None:
    """Let go of what was lent: the deleter of our DLPack tensors."""
    del lent[address]


class Block:
    """Memory that is free again when nothing refers to it."""

    def __init__(self, nbytes: int) -> None:
        self.address = memory().allocate(nbytes)

    def __del__(self) -> None:
        memory().free(self.address)


class Taken:
    """What another library made, given back when nothing refers to it."""

    def __init__(self, capsule: Any) -> None:
        self.tensor = Versioned.from_address(take_pointer(capsule, VERSIONED))
        rename(capsule, USED)

    def __del__(self) -> None:
        self.tensor.deleter(ctypes.addressof(self.tensor))


def extent(a: Array | DeviceArray) -> tuple[int, int]:
    """Where memory begins, in bytes relative to the first element, and how many bytes it has."""
    if 0 in a.shape:
        return 0, 0
    reach = [stride * (n - 1) for stride, n in zip(a.strides, a.shape, strict=True)]
    return sum(r for r in reach if r < 0), sum(abs(r) for r in reach) + a.dtype.itemsize


class DeviceArray:
    """An array in memory of the device, of any strides."""

    def __init__(
        self, owner: Any, address: int, shape: Any, strides: Any, dtype: np.dtype[Any]
    ) -> None:
        self.owner, self.address = owner, address
        self.shape, self.strides, self.dtype = tuple(shape), tuple(strides), dtype

    def numpy(self) -> Array:
        """Return a copy of the values, in memory of the same strides."""
        first, nbytes = extent(self)
        values = np.empty(nbytes, np.uint8)
        memory().read(values.ctypes.data, self.address + first, nbytes)
        return np.ndarray(self.shape, self.dtype, values, -first, self.strides)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return SimpleNamespace(from_dlpack=from_dlpack)

    def __dlpack_device__(self) -> tuple[int, int]:
        return memory().device_type, 0

    def __dlpack__(self, **options: Any) -> Any:
        size = self.dtype.itemsize
        code = BFLOAT if self.dtype == BFLOAT16 else BOOL if self.dtype == bool else FLOAT
        dims = lengths(self.shape), lengths(tuple(stride // size for stride in self.strides))
        kind = code, 8 * size, 1
        tensor = Tensor(self.address, *self.__dlpack_device__(), len(self.shape), *kind, *dims)
        described = Versioned(major=1, minor=0, deleter=give_back, tensor=tensor)
        address = ctypes.addressof(described)
        lent[address] = self, described, dims
        return new_capsule(address, VERSIONED, None)


def from_dlpack(offer: Any) -> DeviceArray:
    """Return what another library offers as an array, without a copy."""
    taken = Taken(offer.__dlpack__(max_version=(1, 0)))
    t = taken.tensor.tensor
    dtypes = {BFLOAT: BFLOAT16, BOOL: np.dtype(bool), FLOAT: np.dtype(f"f{t.bits // 8}")}
    dtype = dtypes[t.code]
    strides = [dtype.itemsize * s for s in t.strides[: t.ndim]]
    return DeviceArray(taken, (t.data or 0) + t.byte_offset, t.shape[: t.ndim], strides, dtype)


def to_device(a: Array, shift: int = 0) -> DeviceArray:
    """Return a copy in memory of the same strides, `shift` elements beyond where a block begins."""
    first, nbytes = extent(a)
    block = Block(nbytes + shift * a.itemsize)
    start = block.address + shift * a.itemsize
    memory().write(start, a.ctypes.data + first, nbytes)
    return DeviceArray(block, start - first, a.shape, a.strides, a.dtype)


def poisoned(a: Array, shift: int = 0) -> DeviceArray:
    """Return an array of NaN in the shape and the order of another."""
    result = to_device(np.empty_like(a), shift)
    memory().fill(result.address, 0xFF, extent(result)[1])
    return result
