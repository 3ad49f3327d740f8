"""Memory of a GPU by its driver alone; or the host's, where kernels run on the CPU.

BNFAST_CUDA_LIBRARY in the environment names a build of the CUDA backend for the CPU, whose device
memory is the host's. BNFAST_GPU_DRY_RUN puts the CPU's backend in place of any, so that the tests
themselves can be tried where there is neither.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from typing import Any, Protocol

import numpy as np

CPU, CUDA = 1, 2  # as DLPack numbers devices


class Memory(Protocol):
    """What arrays need of a device. Addresses and lengths are in bytes."""

    device_type: int
    is_gpu: bool

    def allocate(self, nbytes: int) -> int: ...
    def free(self, address: int) -> None: ...
    def write(self, address: int, source: int, nbytes: int) -> None: ...
    def read(self, target: int, address: int, nbytes: int) -> None: ...
    def copy(self, target: int, source: int, nbytes: int) -> None: ...
    def fill(self, address: int, byte: int, nbytes: int) -> None: ...


class HostMemory:
    """Memory of the host that passes for a device's."""

    is_gpu = False

    def __init__(self, device_type: int) -> None:
        self.device_type = device_type
        self._blocks: dict[int, np.ndarray[Any, Any]] = {}

    def allocate(self, nbytes: int) -> int:
        block = np.empty(nbytes + 256, np.uint8)
        address = block.ctypes.data + -block.ctypes.data % 256
        self._blocks[address] = block
        return address

    def free(self, address: int) -> None:
        del self._blocks[address]

    def write(self, address: int, source: int, nbytes: int) -> None:
        ctypes.memmove(address, source, nbytes)

    read = copy = write

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        ctypes.memset(address, byte, nbytes)


class GpuMemory:
    """Memory of the first GPU, in the context that CUDA's runtime uses, too."""

    device_type = CUDA
    is_gpu = True

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._context = ctypes.c_void_p()
        self._check("cuInit", ctypes.c_uint(0))
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), ctypes.c_int(0))

    def _check(self, function: str, *arguments: Any) -> None:
        status = getattr(self._driver, function)(*arguments)
        if status != 0:
            raise RuntimeError(f"{function}: error {status} of the CUDA driver")

    def _call(self, function: str, *arguments: Any) -> None:
        self._check("cuCtxSetCurrent", self._context)  # of this thread
        self._check(function, *arguments)

    def _wait(self) -> None:
        self._call("cuCtxSynchronize")

    def allocate(self, nbytes: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(nbytes, 1)))
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))  # waits for what uses it

    def write(self, address: int, source: int, nbytes: int) -> None:
        if nbytes > 0:
            target, length = ctypes.c_uint64(address), ctypes.c_size_t(nbytes)
            self._call("cuMemcpyHtoD_v2", target, ctypes.c_void_p(source), length)
        self._wait()

    def read(self, target: int, address: int, nbytes: int) -> None:
        self._wait()
        if nbytes > 0:
            source, length = ctypes.c_uint64(address), ctypes.c_size_t(nbytes)
            self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(target), source, length)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        addresses = ctypes.c_uint64(target), ctypes.c_uint64(source)
        self._call("cuMemcpyDtoD_v2", *addresses, ctypes.c_size_t(nbytes))
        self._wait()

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        if nbytes > 0:
            length = ctypes.c_size_t(nbytes)
            self._call("cuMemsetD8_v2", ctypes.c_uint64(address), ctypes.c_ubyte(byte), length)
        self._wait()

    def free_bytes(self) -> int:
        """How much memory nobody uses."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value


@functools.cache
def memory() -> Memory:
    """Return the memory that tests use in this process."""
    if "BNFAST_GPU_DRY_RUN" in os.environ:
        return HostMemory(CPU)
    if "BNFAST_CUDA_LIBRARY" in os.environ:
        return HostMemory(CUDA)
    return GpuMemory()


def why_unavailable() -> str | None:
    """Return why nothing can be tested on a GPU here, or None."""
    if "BNFAST_GPU_DRY_RUN" in os.environ:
        return None
    try:
        cuda = importlib.import_module("bnfast.cuda")
    except ImportError:
        return "this bnfast knows nothing of CUDA"
    return None if cuda.is_available() else "bnfast.cuda is not available"
