"""Moments to test with: exact ones of few numbers, and any that can be."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from bnfast._moments import GradientSums, Moments


def exact_moments(values):
    """Count, mean and m2 of some floats as exact fractions."""
    numbers = [Fraction(float(value)) for value in values]
    if not numbers:
        return 0, Fraction(0), Fraction(0)
    mean = sum(numbers) / len(numbers)
    return len(numbers), mean, sum((number - mean) ** 2 for number in numbers)


def moments_of(*channels):
    """Moments of one list of floats a channel, each entry rounded once from the exact value."""
    exact = [exact_moments(values) for values in channels]
    high = [float(mean) for _, mean, _ in exact]
    low = [float(mean - Fraction(h)) for (_, mean, _), h in zip(exact, high, strict=True)]
    return Moments([n for n, _, _ in exact], high, [float(m2) for _, _, m2 in exact], low)


def bits(statistics):
    return [array.tobytes() for array in statistics._arrays()]


# squares of smaller numbers would lose digits to underflow, which no formula can keep
floats = st.floats(-1e6, 1e6).map(lambda value: value if abs(value) > 1e-60 else 0.0)
samples = st.lists(floats, min_size=0, max_size=12)


@st.composite
def statistics(draw, kind=None):
    kind = kind or draw(st.sampled_from([Moments, GradientSums]))
    channels = draw(st.integers(0, 5))

    def values(element):
        return np.array(draw(st.lists(element, min_size=channels, max_size=channels)))

    count = values(st.integers(0, 2**60)).astype(np.int64)
    any_float = st.floats(width=64)
    if kind is GradientSums:
        return GradientSums(count, *(values(any_float).astype(float) for _ in range(2)))
    mean, low = (values(any_float).astype(float) for _ in range(2))
    m2 = values(st.floats(0.0, math.inf) | st.just(math.nan)).astype(float)
    return Moments(count, mean, m2, low)
