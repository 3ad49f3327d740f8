"""Facts about the machine and the software that a figure cannot be read without."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

import bnfast
from bnfast import _core

ROOT = Path(__file__).resolve().parent.parent


def _read(path: str) -> str:
    """Of a file that only Linux has; empty elsewhere."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def openmp_runtimes() -> list[str]:
    """Names of the OpenMP libraries in this process.

    With more than one, the idle threads of one library spin on cores that another one needs.
    """
    lines = _read("/proc/self/maps").splitlines()
    names = {Path(line.split(maxsplit=5)[-1]).name for line in lines if "/" in line}
    return sorted(name for name in names if name.startswith(("libgomp", "libomp", "libiomp")))


def git_commit() -> str | None:
    """The commit of the tree, marked when files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def facts(num_threads: int, versions: dict[str, str]) -> dict[str, Any]:
    # Transparent huge pages decide what a fresh large output costs.
    pages = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": git_commit(),
        "cpu": cpu_model(),
        "cores": _core.usable_cpus(),
        "l2_bytes_per_core": _core.private_cache_bytes(),
        "threads": num_threads,
        "target": bnfast.active_target(),
        "system": f"{platform.system()} {platform.release()}",
        "transparent_huge_pages": pages.partition("[")[2].partition("]")[0] or None,
        "openmp_runtimes": openmp_runtimes(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, **versions},
    }


def _others_seconds() -> float:
    """CPU time that the usable cores have given to other programs, or lost to other machines."""
    usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for line in _read("/proc/stat").splitlines():
        name, *fields = line.split()
        if name in usable:
            user, nice, system, _idle, _iowait, *interrupts_and_steal = map(int, fields[:8])
            ticks += user + nice + system + sum(interrupts_and_steal)
    own = os.times()
    own_seconds = own.user + own.system + own.children_user + own.children_system
    return ticks / os.sysconf("SC_CLK_TCK") - own_seconds


class Disturbance:
    """The share of the usable cores that other programs have taken since it was made.

    A thread that waits for a preempted partner loses whole scheduler ticks, which makes threaded
    calls of microseconds look hundreds of times slower: such figures are not worth keeping.
    """

    def __init__(self) -> None:
        self._wall, self._others = time.monotonic(), _others_seconds()

    def share(self) -> float:
        wall, others = time.monotonic() - self._wall, _others_seconds() - self._others
        return max(0.0, others) / (wall * _core.usable_cpus())
