"""Objects with `__dlpack__` of our own making: old and new capsules, and capsules that lie."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import bnfast
from dlpack.structs import CPU, CUDA, READ_ONLY, Legacy, Tensor, Versioned, new_capsule


def lengths(numbers: tuple[int, ...]) -> Any:
    return (ctypes.c_int64 * max(len(numbers), 1))(*numbers)


class Lender:
    """An array that lends its memory, and says of it what it is told to say."""

    def __init__(
        self, array: np.ndarray, *, old: bool = False, major: int = 1, flags: int = 0, **lies: Any
    ) -> None:
        self.array, self.old, self.major, self.flags, self.lies = array, old, major, flags, lies
        self.dtype, self.shape, self.freed = array.dtype, array.shape, 0

    def __dlpack_device__(self) -> tuple[int, int]:
        if "said" in self.lies:
            return self.lies["said"]
        return self.lies.get("device_type", CPU), self.lies.get("device_index", 0)

    def __dlpack__(self, **options: Any) -> Any:
        if self.old and options:
            raise TypeError("this library knows no such argument")
        a = self.array
        self.dims = lengths(a.shape), lengths(tuple(s // a.itemsize for s in a.strides))
        tensor = Tensor(a.ctypes.data, CPU, 0, a.ndim, 2, 8 * a.itemsize, 1, *self.dims, 0)
        for name in self.lies.keys() - {"said"}:
            setattr(tensor, name, self.lies[name])
        self.deleter = Legacy._fields_[2][1](self.free)
        if self.old:
            self.owner: Any = Legacy(tensor, None, self.deleter)
            self.name = b"dltensor"
        else:
            self.owner = Versioned(self.major, 0, None, self.deleter, self.flags, tensor)
            self.name = b"dltensor_versioned"
        return new_capsule(ctypes.addressof(self.owner), self.name, None)

    def free(self, _: int) -> None:
        self.freed += 1

    @staticmethod
    def from_dlpack(offer: Any) -> np.ndarray:
        return np.from_dlpack(offer)

    def __array_namespace__(self) -> Any:
        return type(self)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)


@pytest.mark.parametrize("old", [True, False])
def test_both_forms_of_capsules_are_read_and_freed_once(x, old):
    lender = Lender(x, old=old)
    y, ctx = bnfast.batch_norm(lender)
    assert lender.freed == 1
    assert np.array_equal(y, bnfast.batch_norm(x)[0])
    dx = bnfast.batch_norm_backward(x, ctx).dx
    assert lender.freed == 2
    assert np.array_equal(dx, bnfast.batch_norm_backward(x, bnfast.batch_norm(x)[1]).dx)


def test_strides_offsets_and_c_order_without_strides(x):
    want = bnfast.batch_norm(x[::-1, ::2])[0]
    assert np.array_equal(bnfast.batch_norm(Lender(x[::-1, ::2]))[0], want)
    plain = Lender(x, strides=ctypes.POINTER(ctypes.c_int64)())
    assert np.array_equal(bnfast.batch_norm(plain)[0], bnfast.batch_norm(x)[0])
    behind = Lender(x[1:], data=x.ctypes.data, byte_offset=x.strides[0])
    assert np.array_equal(bnfast.batch_norm(behind)[0], bnfast.batch_norm(x[1:])[0])


def test_read_only_memory_is_not_written(x):
    before = x.copy()
    lender = Lender(x, flags=READ_ONLY)
    with pytest.raises(ValueError, match="out is read-only"):
        bnfast.dropout(x.copy(), 0.5, seed=1, out=lender)
    assert np.array_equal(x, before) and lender.freed == 1
    bnfast.dropout(x.copy(), 0.5, seed=1, out=Lender(x))
    assert np.array_equal(x, bnfast.dropout(before, 0.5, seed=1)[0])


FAR = 2**61
ON_CUDA = {"device_type": CUDA, "device_index": 3}


@pytest.mark.parametrize(
    ("error", "message", "lies"),
    [
        (TypeError, "x describes an impossible number of dimensions", {"ndim": -1}),
        (TypeError, "x describes an impossible number of dimensions", {"ndim": 65}),
        (TypeError, "x describes no shape", {"shape": ctypes.POINTER(ctypes.c_int64)()}),
        (TypeError, "x describes several lanes an element", {"lanes": 4}),
        (TypeError, "x describes a negative length", {"shape": lengths((6, -4))}),
        (TypeError, "x describes more elements than", {"shape": lengths((2**40, 2**40))}),
        (TypeError, "x describes more elements than", {"shape": lengths((0, 2**62))}),
        (TypeError, "x describes a stride beyond memory", {"strides": lengths((FAR, 1))}),
        (TypeError, "x describes strides beyond memory", {"strides": lengths((FAR // 9, 1))}),
        (TypeError, "x describes no memory", {"data": None}),
        (TypeError, "x has a newer form of DLPack", {"major": 2}),
        (TypeError, "x has dtype float32, expected", {"code": 0}),
        (TypeError, "x has dtype float32, expected", {"bits": 24}),
        (TypeError, "x has dtype float32, expected", {"code": 4}),
        (
            TypeError,
            "x is on cuda:3, but its __dlpack_device__ says cpu:0",
            ON_CUDA | {"said": (1, 0)},
        ),
    ],
)
def test_lies_are_refused_and_what_was_lent_is_freed(x, error, message, lies):
    lender = Lender(x, **lies)
    with pytest.raises(error, match=f"^batch_norm: {message}"):
        bnfast.batch_norm(lender)
    assert lender.freed == 1
    with pytest.raises(error, match=r"^batch_norm: residual"):
        bnfast.batch_norm(x, residual=Lender(x, **lies))


@pytest.mark.parametrize(
    ("message", "device"),
    [
        ("x is on cuda:3, expected cpu: ", ON_CUDA),
        ("x is on DLPack device 9:0, expected cpu", {"device_type": 9}),
    ],
)
def test_arrays_on_devices_without_a_backend_are_refused_before_they_are_lent(x, message, device):
    if device is ON_CUDA and bnfast.cuda.is_available():
        pytest.skip("there is CUDA")
    lender = Lender(x, **device)
    with pytest.raises(ValueError, match=f"^batch_norm: {message}"):
        bnfast.batch_norm(lender)
    with pytest.raises(ValueError, match=r"^batch_norm: residual"):
        bnfast.batch_norm(x, residual=lender)
    assert lender.freed == 0


class Broken:
    """An object whose `__dlpack__` returns, or raises, something else."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def __dlpack__(self, **options: Any) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def __array_namespace__(self) -> Any:
        return Lender


@pytest.mark.parametrize("outcome", [None, 3, new_capsule(1, b"used_dltensor", None)])
def test_what_is_no_capsule_is_refused(outcome):
    with pytest.raises(TypeError, match="x has a __dlpack__ that returns no capsule"):
        bnfast.batch_norm(Broken(outcome))


def test_errors_of_the_library_are_told():
    with pytest.raises(TypeError, match="x cannot be read by DLPack: it is elsewhere"):
        bnfast.batch_norm(Broken(BufferError("it is elsewhere")))


def test_a_library_without_from_dlpack_is_refused():
    class Nameless(Broken):
        __array_namespace__ = None
        __module__ = "ctypes"

        def __getattribute__(self, name: str) -> Any:
            if name == "__array_namespace__":
                raise AttributeError(name)
            return super().__getattribute__(name)

    expected = "x is of type Nameless, whose library has no from_dlpack"
    with pytest.raises(TypeError, match=expected):
        bnfast.batch_norm(Nameless(None))
