"""The same arrays with DLPack's table of functions in place of capsules, as PyTorch has."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from dlpack.structs import CUDA, Tensor, Versioned, new_capsule

from cuda_arrays.device import Array, array_of

NAME = b"dlpack_exchange_api"
STREAM = 99  # the one on which this library works
deleter_type = Versioned._fields_[3][1]
set_error_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)


class Shared(Array):
    """An array whose memory is lent, allocated and adopted by functions of C."""

    @property
    def __dlpack__(self) -> Any:
        raise AssertionError("there is a faster way")


class Allocator:
    """The library's own memory: what is allocated, and not given back."""

    def __init__(self) -> None:
        self.alive: dict[int, Any] = {}
        self.full = False

    def allocate(self, prototype: Any, made: Any, context: int, set_error: Any) -> int:
        if self.full:
            set_error(context, b"RuntimeError", b"no memory is left\nand a stack")
            return -1
        t = prototype.contents
        assert (t.device_type, t.ndim) == (CUDA, 1)
        memory = np.full(t.shape[0] * t.bits // 8, 0xA5, np.uint8)
        length = (ctypes.c_int64 * 1)(t.shape[0])
        tensor = Tensor(memory.ctypes.data, CUDA, 0, 1, t.code, t.bits, 1, length, None, 0)
        owner = Versioned(1, 0, None, deleter_type(self.free), 0, tensor)
        address = ctypes.addressof(owner)
        self.alive[address] = owner, memory, length
        made[0] = address
        return 0

    def free(self, address: int) -> None:
        del self.alive[address]


allocator = Allocator()


def borrow(lent: Any, out: Any) -> int:
    """Describe an array that stays its owner's."""
    a = lent.array
    lent.many = (
        (ctypes.c_int64 * 64)(*a.shape),
        (ctypes.c_int64 * 64)(*(stride // a.itemsize for stride in a.strides)),
    )
    out[0] = Tensor(a.ctypes.data, CUDA, 0, a.ndim, 2, 8 * a.itemsize, 1, *lent.many, 0)
    return 0


def adopt(tensor: int, out: Any) -> int:
    """Make memory an array."""
    made = Shared(array_of(Versioned.from_address(tensor), 0).array)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))  # the caller's
    out[0] = made
    return 0


def current_stream(kind: int, index: int, out: Any) -> int:
    """Say on which stream this library works."""
    assert (kind, index) == (CUDA, 0)
    out[0] = STREAM
    return 0


class Table(ctypes.Structure):
    """DLPackExchangeAPI."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        (
            "allocate",
            ctypes.CFUNCTYPE(
                ctypes.c_int,
                ctypes.POINTER(Tensor),
                ctypes.POINTER(ctypes.c_void_p),
                ctypes.c_void_p,
                set_error_type,
            ),
        ),
        ("share", ctypes.c_void_p),
        (
            "adopt",
            ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.py_object)),
        ),
        (
            "borrow",
            ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Tensor)),
        ),
        (
            "current_stream",
            ctypes.CFUNCTYPE(
                ctypes.c_int, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p)
            ),
        ),
    )


kind_of = dict(Table._fields_)
table = Table(
    *(1, 0, None, kind_of["allocate"](allocator.allocate), None),
    *(kind_of["adopt"](adopt), kind_of["borrow"](borrow)),
    kind_of["current_stream"](current_stream),
)
Shared.__dlpack_c_exchange_api__ = new_capsule(  # type: ignore[attr-defined]
    ctypes.addressof(table), NAME, None
)
