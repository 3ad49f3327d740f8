"""Threads, SIMD targets and the printed configuration."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from bnfast import _core


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
        "CUDA": "not built in",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    for name, value in rows.items():
        print(f"{name:<10} {value}")
