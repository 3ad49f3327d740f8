"""Interleaved timing: every round runs every contender once, so drift hits all of them alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Call = Callable[[], object]

# Shorter samples drown in the clock's resolution and in interrupts.
MIN_SAMPLE_NS = 200_000


@dataclass(frozen=True)
class Summary:
    """Median and quartiles of one quantity over the rounds."""

    median: float
    lower: float
    upper: float

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles."""
        return (self.upper - self.lower) / 2

    def __str__(self) -> str:
        return f"{self.median:.2f} ±{self.spread:.2f}"

    def as_json(self) -> dict[str, float]:
        return {"median": self.median, "q1": self.lower, "q3": self.upper}


def summarise(values: Sequence[float]) -> Summary:
    if len(values) == 1:
        return Summary(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, lower, upper)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Summary:
    """Ratio within each round, then the median: a slow round slows both sides."""
    return summarise([a / b for a, b in zip(numerator, denominator, strict=True)])


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


def _run(call: Call, repeats: int) -> int:
    """Nanoseconds that `repeats` calls take."""
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call()
    return time.perf_counter_ns() - start


def _calibrate(call: Call, min_sample_ns: int) -> int:
    """Calls per sample so that a sample lasts at least `min_sample_ns`."""
    repeats = 1
    while (elapsed := _run(call, repeats)) < min_sample_ns:
        # At least doubled: the first measurement is often a slow one and predicts too few.
        repeats = max(2 * repeats, math.ceil(repeats * min_sample_ns / max(elapsed, 1)))
    return repeats


def measure(
    calls: Mapping[str, Call], rounds: int, min_sample_ns: int = MIN_SAMPLE_NS
) -> dict[str, list[float]]:
    """Seconds a call of each contender, one value a round. Contenders must be warmed up."""
    repeats = {name: _calibrate(call, min_sample_ns) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for index in range(rounds):
            shift = index % len(names)
            order = names[shift:] + names[:shift]
            # Rotation alone would always give a contender the same predecessor, and its caches.
            for name in order if index % 2 == 0 else reversed(order):
                call, count = calls[name], repeats[name]
                # Timed in the steady state of a loop of such calls, every contender alike: own
                # data in what cache holds it, own threads awake.
                _run(call, count)
                seconds[name].append(_run(call, count) * 1e-9 / count)
    finally:
        if collecting:
            gc.enable()
    return seconds
