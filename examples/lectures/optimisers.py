"""Stochastic gradient descent and three methods that remember earlier gradients.

An optimiser is called with the parameters of a network, each with its gradient, and moves them in
place. gamma and beta of batch norm are parameters like any other. A parameter is known by its
position in the order, which is always the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


class SGD:
    """theta -= rate * g."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.averages: dict[tuple[str, int], np.ndarray] = {}
        self.steps = 0

    def __call__(self, parameters: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        self.steps += 1
        for index, (parameter, gradient) in enumerate(parameters):
            parameter -= self.rate * self.direction(index, gradient)

    def direction(self, index: int, gradient: np.ndarray) -> np.ndarray:
        """Return what a step goes against."""
        return gradient

    def average(
        self, name: str, index: int, old: float, new: float, value: np.ndarray
    ) -> np.ndarray:
        """Return average = old * average + new * value, which starts at 0, and keep it."""
        average = self.averages.setdefault((name, index), np.zeros_like(value))
        average *= old
        average += new * value
        return average


class Momentum(SGD):
    """v = 0.9 v + g, theta -= rate * v (Polyak 1964)."""

    def direction(self, index: int, gradient: np.ndarray) -> np.ndarray:
        return self.average("gradient", index, 0.9, 1.0, gradient)


class RMSprop(SGD):
    """s = 0.9 s + 0.1 g^2, theta -= rate * g / (sqrt(s) + 1e-8) (Tieleman & Hinton 2012)."""

    def direction(self, index: int, gradient: np.ndarray) -> np.ndarray:
        square = self.average("square", index, 0.9, 0.1, gradient * gradient)
        return gradient / (np.sqrt(square) + 1e-8)


class Adam(SGD):
    """Averages of g and g^2, corrected for their start at 0 (Kingma & Ba 2015, algorithm 1)."""

    def direction(self, index: int, gradient: np.ndarray) -> np.ndarray:
        mean = self.average("gradient", index, 0.9, 0.1, gradient)
        square = self.average("square", index, 0.999, 0.001, gradient * gradient)
        mean_correction = 1.0 - 0.9**self.steps
        square_correction = 1.0 - 0.999**self.steps
        return mean / mean_correction / (np.sqrt(square / square_correction) + 1e-8)


OPTIMISERS = {"SGD": SGD, "momentum": Momentum, "RMSprop": RMSprop, "Adam": Adam}
