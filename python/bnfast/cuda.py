"""Whether arrays on CUDA devices can be computed here, and the devices that there are."""

from __future__ import annotations

from typing import NamedTuple

from bnfast import _core
from bnfast._checks import whole_number

__all__ = [
    "Device",
    "architectures",
    "device",
    "device_count",
    "is_available",
    "why_unavailable",
]


class Device(NamedTuple):
    """A GPU.

    Attributes
    ----------
    name : str
        What its maker calls it.
    compute_capability : tuple of int
        Major and minor number of its generation.
    memory_bytes : int
        Its memory, in all.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


def is_available() -> bool:
    """Return whether arrays on CUDA devices can be computed.

    What computes them is a library of its own, which the first call of this function, or with such
    an array, loads. The environment variable ``BNFAST_CUDA_LIBRARY`` can name another file.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.cuda.is_available() == (bnfast.cuda.device_count() > 0)
    True
    """
    return _core.cuda_unavailable() is None


def why_unavailable() -> str | None:
    """Return why arrays on CUDA devices cannot be computed, or None where they can.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.cuda.is_available() == (bnfast.cuda.why_unavailable() is None)
    True
    """
    return _core.cuda_unavailable()


def device_count() -> int:
    """Return the number of devices that can be used, 0 where CUDA is not available.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.cuda.device_count() >= 0
    True
    """
    return _core.cuda_device_count()


def device(index: int = 0) -> Device:
    """Describe a device.

    Parameters
    ----------
    index : int
        Its number, as in ``cuda:0``.

    Raises
    ------
    ValueError
        If there is no such device.
    TypeError
        If `index` is not an integer.

    Examples
    --------
    >>> import bnfast
    >>> for index in range(bnfast.cuda.device_count()):
    ...     assert bnfast.cuda.device(index).memory_bytes > 0
    """
    number = whole_number("cuda.device", "index", index, low=0, high=(1 << 31) - 1)
    name, major, minor, memory_bytes = _core.cuda_device(number)
    return Device(name, (major, minor), memory_bytes)


def architectures() -> tuple[str, ...]:
    """Return what the kernels were compiled for; empty where CUDA is not available.

    ``90-real`` is machine code for compute capability 9.0. ``120`` is machine code for 12.0 and an
    intermediate form from which the driver makes code for later GPUs.

    Examples
    --------
    >>> import bnfast
    >>> bool(bnfast.cuda.architectures()) == bnfast.cuda.is_available()
    True
    """
    return tuple(_core.cuda_architectures().split())
