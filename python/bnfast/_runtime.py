"""Threads, SIMD targets and the printed configuration."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from bnfast import _core
from bnfast._moments import whole_number


def _check_environment() -> None:
    """A forced setting that cannot be honoured is an error, not a silent other choice."""
    target = os.environ.get("BNFAST_TARGET")
    if target is not None and target not in _core.targets():
        raise ImportError(
            f"BNFAST_TARGET is {target!r}, expected one of {', '.join(_core.targets())} here"
        )
    threads = os.environ.get("BNFAST_NUM_THREADS")
    if threads is not None and not (
        threads.isascii() and threads.isdecimal() and 1 <= int(threads) <= 65536
    ):
        raise ImportError(f"BNFAST_NUM_THREADS is {threads!r}, expected an integer from 1 to 65536")
    shared = os.environ.get("BNFAST_L3")
    if shared is not None and shared not in ("near", "far"):
        raise ImportError(f"BNFAST_L3 is {shared!r}, expected near or far")
    cache = os.environ.get("BNFAST_CACHE_BYTES")
    if cache is not None:
        if not (cache.isascii() and cache.isdecimal() and int(cache) < 1 << 63):
            raise ImportError(f"BNFAST_CACHE_BYTES is {cache!r}, expected a number of bytes")
        _core.set_cache_limit(int(cache))


_check_environment()


def set_num_threads(n: int) -> None:
    """Set the number of threads that calls may use, for the whole process.

    Parameters
    ----------
    n : int
        At least 1. Threads beyond the CPUs that the process may use, or beyond what a call's size
        repays, are not started. Results do not depend on it.

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
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"set_num_threads: n has type {type(n).__name__}, expected int")
    if not 1 <= n <= 1 << 16:
        raise ValueError(f"set_num_threads: n is {n}, expected 1 .. {1 << 16}")
    _core.set_num_threads(int(n))


def get_num_threads() -> int:
    """Return the number of threads that was set.

    The default is ``BNFAST_NUM_THREADS``, or else the CPUs that this process may use (affinity mask
    and cgroup quota, not the host's count).

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
    _core.set_cache_limit(min(number, sys.maxsize))  # more than any memory


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

    Examples
    --------
    >>> import bnfast
    >>> with bnfast.num_threads(1):
    ...     bnfast.get_num_threads()
    1
    """
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        _core.set_num_threads(before)


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
    before = active_target()
    _core.select_target(name)
    try:
        yield
    finally:
        _core.select_target(before)


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
        "CUDA": "not built in",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if not _core.shared_cache_bytes():
        del rows["L3"]
    for name, value in rows.items():
        print(f"{name:<10} {value}")
