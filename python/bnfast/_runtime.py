"""Threads, SIMD targets and the printed configuration."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np

from bnfast import _core, cuda
from bnfast._checks import whole_number
from bnfast._sharing import lock

_MOST_THREADS = 1 << 16


def _check_environment() -> None:
    """A forced setting that cannot be honoured is an error, not a silent other choice."""
    target = os.environ.get("BNFAST_TARGET")
    if target is not None and target not in _core.targets():
        raise ImportError(
            f"BNFAST_TARGET is {target!r}, expected one of {', '.join(_core.targets())} here"
        )
    threads = os.environ.get("BNFAST_NUM_THREADS")
    if threads is not None and not (
        threads.isascii() and threads.isdecimal() and 1 <= int(threads) <= _MOST_THREADS
    ):
        expected = f"an integer from 1 to {_MOST_THREADS}"
        raise ImportError(f"BNFAST_NUM_THREADS is {threads!r}, expected {expected}")
    shared = os.environ.get("BNFAST_L3")
    if shared is not None and shared not in ("near", "far"):
        raise ImportError(f"BNFAST_L3 is {shared!r}, expected near or far")
    cache = os.environ.get("BNFAST_CACHE_BYTES")
    if cache is not None:
        if not (cache.isascii() and cache.isdecimal() and int(cache) < 1 << 63):
            raise ImportError(f"BNFAST_CACHE_BYTES is {cache!r}, expected a number of bytes")
        _core.set_cache_limit(int(cache))


_check_environment()

_T = TypeVar("_T")


class _Setting(Generic[_T]):
    """A setting of the process, and the values of the blocks that it is set for, latest last.

    Threads may enter and leave blocks in any order: what is in force is the value of the last one
    that somebody is still in, and behind all of them what was set before.
    """

    def __init__(self, get: Callable[[], _T], apply: Callable[[_T], None]) -> None:
        self._get, self._apply = get, apply
        self._before = get()
        # Each block has a list of its own with its one value: blocks of equal values stay apart.
        self._blocks: list[list[_T]] = []

    def set(self, value: _T) -> None:
        with lock:
            self._apply(value)
            if self._blocks:
                self._blocks[-1][0] = value

    @contextmanager
    def block(self, value: _T) -> Iterator[None]:
        mine = [value]
        with lock:
            if not self._blocks:
                self._before = self._get()
            self._apply(value)
            self._blocks.append(mine)
        try:
            yield
        finally:
            with lock:
                self._blocks = [block for block in self._blocks if block is not mine]
                self._apply(self._blocks[-1][0] if self._blocks else self._before)


_threads = _Setting(_core.num_threads, _core.set_num_threads)
_target = _Setting(_core.active_target, _core.select_target)


def set_num_threads(n: int) -> None:
    """Set the number of threads that calls may use, for the whole process.

    Parameters
    ----------
    n : int
        At least 1. Threads beyond the CPUs that the process may use, or beyond what a call's size
        repays, are not started. Results do not depend on it. While a thread is in a block of
        :func:`num_threads`, it holds until that block ends.

    Raises
    ------
    ValueError
        If `n` is less than 1.
    TypeError
        If `n` is not an integer.

    Examples
    --------
    >>> import bnfast
    >>> before = bnfast.get_num_threads()
    >>> bnfast.set_num_threads(1)
    >>> bnfast.get_num_threads()
    1
    >>> bnfast.set_num_threads(before)
    """
    _threads.set(whole_number("set_num_threads", "n", n, low=1, high=_MOST_THREADS))


def get_num_threads() -> int:
    """Return the number of threads that was set.

    The default is ``BNFAST_NUM_THREADS``, or else the CPUs that this process may use (affinity mask
    and cgroup quota, not the host's count), or as many of them as ``OMP_NUM_THREADS`` says.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.get_num_threads() >= 1
    True
    """
    return _core.num_threads()


def set_cache_limit(nbytes: int) -> None:
    """Set how many bytes are kept of the arrays that bnfast returned and nobody uses any more.

    A large new array is made of pages that the system has to clear first, which takes longer than
    the computation. So the memory of results of 1 MB and more, once no array refers to it, is kept
    for later results. It is never shared: arrays, views of them included, own it until they are
    gone. ``out=`` and smaller results are not concerned.

    Parameters
    ----------
    nbytes : int
        At least 0. The default is ``BNFAST_CACHE_BYTES``, or else 256 MiB. What is kept beyond it
        is given back at once: 0 keeps nothing.

    Raises
    ------
    ValueError
        If `nbytes` is negative.
    TypeError
        If `nbytes` is not an integer.

    Examples
    --------
    >>> import bnfast
    >>> before = bnfast.get_cache_limit()
    >>> bnfast.set_cache_limit(0)
    >>> bnfast.get_cache_limit()
    0
    >>> bnfast.set_cache_limit(before)
    """
    number = whole_number("set_cache_limit", "nbytes", nbytes, low=0)
    _core.set_cache_limit(min(number, sys.maxsize))  # what the core can hold


def get_cache_limit() -> int:
    """Return the number of bytes that :func:`set_cache_limit` set.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.get_cache_limit() >= 0
    True
    """
    return _core.cache_limit()


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Context manager: :func:`set_num_threads` inside the block, the former number afterwards.

    It holds for the whole process: among blocks that several threads are in at once, the number of
    the one that was entered last does.

    Examples
    --------
    >>> import bnfast
    >>> with bnfast.num_threads(1):
    ...     bnfast.get_num_threads()
    1
    """
    with _threads.block(whole_number("num_threads", "n", n, low=1, high=_MOST_THREADS)):
        yield


def targets() -> tuple[str, ...]:
    """Return the SIMD builds of the kernels that this machine can run, best first.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.active_target() in bnfast.targets()
    True
    """
    return tuple(_core.targets())


def active_target() -> str:
    """Return the SIMD build in use: ``BNFAST_TARGET``, or the best.

    Examples
    --------
    >>> import bnfast
    >>> isinstance(bnfast.active_target(), str)
    True
    """
    return _core.active_target()


@contextmanager
def use_target(name: str) -> Iterator[None]:
    """Context manager: use another SIMD build, for the whole process, inside the block.

    Results are the same for every target of one architecture, bit for bit.

    Raises
    ------
    ValueError
        If `name` is not one of :func:`targets`.

    Examples
    --------
    >>> import bnfast
    >>> with bnfast.use_target(bnfast.targets()[-1]):
    ...     bnfast.active_target() == bnfast.targets()[-1]
    True
    """
    if not isinstance(name, str):
        raise TypeError(f"use_target: name has type {type(name).__name__}, expected str")
    with _target.block(name):
        yield


def _cuda_text() -> str:
    if why := cuda.why_unavailable():
        return f"no: {why}"
    devices = [cuda.device(index) for index in range(cuda.device_count())]
    return f"yes, kernels for {' '.join(cuda.architectures())}: " + ", ".join(
        f"{d.name} (compute capability {d.compute_capability[0]}.{d.compute_capability[1]})"
        for d in devices
    )


def show_config() -> None:
    """Print version, SIMD targets, threads and CUDA. ``python -m bnfast`` prints it too."""
    names = ", ".join(f"{t} (active)" if t == active_target() else t for t in targets())
    rows = {
        "bnfast": _core.__version__,
        "targets": names,
        "threads": f"{get_num_threads()} set, {_core.usable_cpus()} CPUs usable, "
        f"{_core.threading_name()}",
        "L2 a core": f"{_core.private_cache_bytes() // 1024} KiB",
        "L3": f"{_core.shared_cache_bytes() // 1024} KiB, taken to be "
        + ("near" if _core.shared_cache_is_near() else "as far as memory"),
        "CUDA": _cuda_text(),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if not _core.shared_cache_bytes():
        del rows["L3"]
    for name, value in rows.items():
        print(f"{name:<10} {value}")
