"""Facts about the machine and the software that a figure cannot be read without."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def huge_pages() -> str | None:
    """The transparent huge page setting, which decides what a fresh large output costs."""
    try:
        setting = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return None
    return setting.partition("[")[2].partition("]")[0] or None


def openmp_runtimes() -> list[str]:
    """Names of the OpenMP libraries in this process.

    With more than one, the idle threads of one library spin on cores that another one needs.
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    names = (Path(path).name for path in paths)
    return sorted(name for name in names if name.startswith(("libgomp", "libomp", "libiomp")))


class Disturbance:
    """The share of the usable cores that other programs have taken since it was made.

    A thread that waits for a preempted partner loses whole scheduler ticks, which makes threaded
    calls of microseconds look hundreds of times slower: such figures are not worth keeping.
    """

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def share(self) -> float | None:
        """None where the system does not tell."""
        wall, busy, own = time.monotonic(), _busy_seconds(), _own_seconds()
        if busy is None or self._busy is None:
            return None
        others = busy - self._busy - (own - self._own)
        return max(0.0, others) / ((wall - self._wall) * usable_cores())


def _own_seconds() -> float:
    """CPU time of this process, and of the children that it has waited for."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def _busy_seconds() -> float | None:
    """Time that the usable cores have spent on any work, or lost to other virtual machines."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in usable:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def git_commit() -> str | None:
    """The commit of the tree, marked when files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def facts(
    num_threads: int, l2_bytes: int, target: str, versions: dict[str, str]
) -> dict[str, object]:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": git_commit(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "l2_bytes_per_core": l2_bytes,
        "threads": num_threads,
        "target": target,
        "system": f"{platform.system()} {platform.release()}",
        "transparent_huge_pages": huge_pages(),
        "openmp_runtimes": openmp_runtimes(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, **versions},
    }
