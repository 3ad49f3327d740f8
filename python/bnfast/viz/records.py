"""What is recorded of one training call: plain numbers, measured, and as JSON has them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # the middle 90 %, the middle half, the median
# What is kept of every channel, as far as the layer has it, in the order in which it is shown.
QUANTITIES = ("batch_mean", "running_mean", "batch_var", "running_var", "gamma", "beta")


@dataclass(frozen=True)
class Distribution:
    """How the elements of a tensor are distributed; NaN and infinities are counted, not placed.

    Attributes
    ----------
    size, finite : int
        How many elements were looked at, and how many of them are finite.
    low, high : float
        The smallest and the largest finite element; NaN where there is none.
    quantiles : list of float
        At `QUANTILES`, as `numpy.quantile` computes them.
    counts : list of int
        The histogram: elements in each of the bins of equal width from `low` to `high`.
    """

    size: int
    finite: int
    low: float
    high: float
    quantiles: list[float]
    counts: list[int]

    @classmethod
    def of(cls, elements: NDArray[Any], bins: int) -> Distribution:
        """Measure elements in any order.

        Examples
        --------
        >>> import numpy as np
        >>> from bnfast.viz import Distribution
        >>> shape = Distribution.of(np.array([0.0, 1.0, 1.0, 4.0, np.nan]), bins=4)
        >>> shape.size, shape.finite, shape.low, shape.high, shape.counts
        (5, 4, 0.0, 4.0, [1, 2, 0, 1])
        """
        values = elements.astype(np.float64).ravel()
        finite = values[np.isfinite(values)]
        if not finite.size:
            nothing = [float("nan")] * len(QUANTILES)
            return cls(values.size, 0, float("nan"), float("nan"), nothing, [0] * bins)
        low, high = float(finite.min()), float(finite.max())
        # Scaled first, as the width of a bin may be below the spacing of floats there, or overflow.
        scale = np.abs(finite).max() or 1.0
        span = high / scale - low / scale
        place = (finite / scale - low / scale) * (bins / span) if span else np.zeros(finite.size)
        counts = np.bincount(np.minimum(place.astype(np.int64), bins - 1), minlength=bins)
        quantiles = np.quantile(finite, QUANTILES)
        return cls(values.size, finite.size, low, high, quantiles.tolist(), counts.tolist())


@dataclass(frozen=True)
class Channels:
    """One number a channel: its quantiles over all channels, and the numbers of a few of them.

    Attributes
    ----------
    quantiles : list of float
        At `QUANTILES`, over the channels whose number is not NaN.
    picked : list of float
        The numbers of the channels that `Record.picked` names.
    """

    quantiles: list[float]
    picked: list[float]

    @classmethod
    def of(cls, values: Numbers, picked: NDArray[np.int64]) -> Channels:
        """Measure the numbers of all channels."""
        known = values[~np.isnan(values)]
        with np.errstate(invalid="ignore"):  # between two infinities
            quantiles = np.quantile(known, QUANTILES) if known.size else np.full(5, np.nan)
        return cls(quantiles.tolist(), values[picked].tolist())


@dataclass(frozen=True)
class Record:
    """What is known of one training call of a layer.

    Attributes
    ----------
    step : int
        How many training calls the layer had before, since it was watched.
    input, output : Distribution
        Of the elements of x, and of y behind residual, activation and dropout.
    picked : list of int
        The channels of which there are single numbers.
    channels : mapping of str to Channels
        "batch_mean" and "batch_var" (the biased one, by which the layer divides); "running_mean"
        and "running_var" after the call, which has taken the batch into them; "gamma" and "beta"
        as the call used them. What a layer does not have is missing. Where threads share a layer,
        the running values, gamma and beta are those right after the call, and may already include
        another thread's call.
    """

    step: int
    input: Distribution
    output: Distribution
    picked: list[int]
    channels: Mapping[str, Channels]

    def to_json(self) -> dict[str, Any]:
        """Return it as dicts, lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Record:
        """Return what `to_json` was called for."""
        return cls(
            step=saved["step"],
            input=Distribution(**saved["input"]),
            output=Distribution(**saved["output"]),
            picked=saved["picked"],
            channels={name: Channels(**kept) for name, kept in saved["channels"].items()},
        )
