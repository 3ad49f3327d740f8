"""RunningStats: the mean and variance that evaluation normalises by, gathered over the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bnfast._checks import (
    as_array,
    one_of,
    per_channel,
    real_number,
    whole_number,
    whole_numbers,
)
from bnfast._moments import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

Mode = Literal["ema", "cumulative", "population"]
_MODES: tuple[Mode, ...] = ("ema", "cumulative", "population")


def state_dtype(operation: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Return `dtype` as float32 or float64, which per-channel state is kept in."""
    kind = None if dtype is None else np.dtype(dtype)  # np.dtype(None) is float64
    if kind not in (np.float32, np.float64):
        raise TypeError(f"{operation}: dtype is {dtype!r}, expected float32 or float64")
    return kind


class RunningStats:
    """Running mean and variance of every channel, updated from the moments of each batch.

    Parameters
    ----------
    num_features : int
        Number of channels, at least 1.
    momentum : float, default 0.1
        Weight of the new batch in mode "ema", in [0, 1].
    mode : {"ema", "cumulative", "population"}, default "ema"
        "ema": running = (1 - momentum) * running + momentum * batch.
        "cumulative": the average of the batches seen, all of the same weight:
        running = (1 - 1/m) * running + batch / m at the m-th batch.
        "population": the mean and variance of all elements seen, whatever batch they came in.
    correction : {1, 0}, default 1
        1 keeps the unbiased variance (divided by count - 1), 0 the biased one.
    dtype : {float32, float64}, default float32
        What `mean` and `var` are kept in. Updates are computed in float64 and rounded once.

    Attributes
    ----------
    mean, var : ndarray of `dtype`, shape (num_features,)
        The running values: 0 and 1 at first, then always the same arrays, changed in place.
    num_batches_tracked : int
        Number of calls to `update`.

    Raises
    ------
    TypeError or ValueError
        If an argument is of another kind, or out of the range above.

    Notes
    -----
    A channel is not updated where the batch's mean or variance is not finite in `dtype` (one
    element with correction 1 is 0/0), or where its count is 0. "population" needs no variance of
    the batch: it takes single elements too, and `var` stays 1 until count exceeds the correction.
    In mode "cumulative" m counts the batches that the channel took.

    Examples
    --------
    >>> from bnfast import Moments, RunningStats
    >>> running = RunningStats(1, momentum=0.5, dtype="float64")
    >>> running.update(Moments([3], [4.0], [6.0]))  # unbiased variance 6 / 2
    >>> running.mean, running.var, running.num_batches_tracked
    (array([2.]), array([2.]), 1)
    """

    mean: NDArray[Any]
    var: NDArray[Any]
    num_batches_tracked: int

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.1,
        mode: Mode = "ema",
        correction: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_features = whole_number("RunningStats", "num_features", num_features, low=1)
        self.momentum = real_number("RunningStats", "momentum", momentum, low=0, high=1)
        self.mode = one_of("RunningStats", "mode", mode, _MODES)
        self.correction = one_of("RunningStats", "correction", correction, (0, 1))
        self.dtype = state_dtype("RunningStats", dtype)
        # Rows mean and var of one array, so that an update handles both in one NumPy call. The
        # rest is scratch for update(): new arrays would take as long as the arithmetic.
        self._values = np.empty((2, self.num_features), self.dtype)
        self.mean, self.var = self._values
        self._batch = np.empty((2, self.num_features))
        self._old = np.empty((2, self.num_features))
        self._good = np.empty((2, self.num_features), np.bool_)
        self._largest = float(np.finfo(self.dtype).max)
        self.reset()

    def __repr__(self) -> str:
        return (
            f"RunningStats({self.num_features}, momentum={self.momentum:g}, mode={self.mode!r}, "
            f"correction={self.correction}, dtype={self.dtype})"
        )

    def reset(self) -> None:
        """Forget every batch: mean 0, var 1, nothing tracked."""
        self.mean[:] = 0
        self.var[:] = 1
        self.num_batches_tracked = 0
        self._missed = np.zeros(self.num_features, np.int64)
        self._population = Moments.empty(self.num_features)

    def update(self, moments: Moments) -> None:
        """Take the moments of one batch in.

        Parameters
        ----------
        moments : Moments
            `ctx.moments` of a forward in training, or `bnfast.moments(x)`.

        Raises
        ------
        TypeError
            If `moments` is no Moments.
        ValueError
            If it has another number of channels.
        """
        if not isinstance(moments, Moments):
            got = type(moments).__name__
            raise TypeError(f"RunningStats.update: moments is of type {got}, expected Moments")
        if moments.count.size != self.num_features:
            got = f"{moments.count.size} channels"
            message = f"moments has {got}, expected {self.num_features}"
            raise ValueError(f"RunningStats.update: {message}")
        self.num_batches_tracked += 1
        if self.mode == "population":
            self._update_population(moments)
        else:
            # Overflow and 0/0 end as values that are not finite, and those are left out.
            with np.errstate(all="ignore"):
                self._update_average(moments)

    def _update_average(self, moments: Moments) -> None:
        batch, old, good = self._batch, self._old, self._good
        mean, var = batch
        # m2 is 0 where count is 0 or 1: dividing by 0, not by a negative number, gives NaN there
        np.subtract(moments.count, self.correction, out=var)
        np.maximum(var, 0.0, out=var)
        np.divide(moments.m2, var, out=var)
        np.copyto(mean, moments.mean)
        np.abs(batch, out=old)
        np.less_equal(old, self._largest, out=good)  # False for NaN, too
        taken = None if np.logical_and.reduce(good, axis=None) else good[0] & good[1]
        if taken is not None:
            self._missed += ~taken
        weight: float | NDArray[np.float64] = self.momentum
        if self.mode == "cumulative":
            weight = 1.0 / np.maximum(self.num_batches_tracked - self._missed, 1)
        np.multiply(batch, weight, out=batch)
        np.multiply(self._values, 1.0 - weight, out=old)
        np.add(batch, old, out=batch)
        np.copyto(self._values, batch, casting="same_kind", where=True if taken is None else taken)

    def _update_population(self, moments: Moments) -> None:
        finite = np.isfinite(moments.mean) & np.isfinite(moments.m2)
        # what has count 0 leaves the other side of a merge as it is
        count = np.where(finite, moments.count, 0)
        taken = Moments._from_core(count, moments.mean, moments.m2, moments.mean_low)
        self._population = seen = self._population.merge(taken)
        var = seen.var(self.correction)
        with np.errstate(over="ignore"):
            np.copyto(self.mean, seen.mean, casting="same_kind", where=seen.count > 0)
            np.copyto(self.var, var, casting="same_kind", where=seen.count > self.correction)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the state, from which `load_state_dict` resumes bit for bit.

        Returns
        -------
        dict of str to ndarray
            "mean" and "var" (num_features,), and "num_batches_tracked" (int64, shape ()). In mode
            "population" also "count" (int64), "m2" and "mean_low" (float64), and "mean" is float64
            whatever `dtype` is. In mode "cumulative" also "missed" (int64), the number of batches
            that each channel did not take, if there are any.
        """
        state: dict[str, NDArray[Any]] = {
            "mean": self.mean.copy(),
            "var": self.var.copy(),
            "num_batches_tracked": np.array(self.num_batches_tracked, np.int64),
        }
        if self.mode == "population":
            seen = self._population
            for key in ("count", "mean", "m2", "mean_low"):
                state[key] = getattr(seen, key).copy()
        elif self.mode == "cumulative" and self._missed.any():
            state["missed"] = self._missed.copy()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned, into the arrays that are there.

        Parameters
        ----------
        state : mapping of str to array_like
            The keys of `state_dict` in the same mode; "missed" and "mean_low" may be left out.
            PyTorch tensors are accepted.

        Raises
        ------
        TypeError or ValueError
            If a key is missing or unknown, or an entry has a wrong shape or dtype. Nothing has been
            changed then.
        """
        name = "RunningStats.load_state_dict"
        required, optional = self._keys()
        check_keys(name, state, required, optional)
        size = self.num_features
        given: dict[str, NDArray[Any]] = {}
        for key in ("mean", "var", "m2", "mean_low"):
            if key in state:
                given[key] = per_channel(name, key, state[key], size)
        for key in ("count", "missed"):
            if key in state:
                given[key] = whole_numbers(name, key, state[key], size)
        # NumPy and torch give a 0-d array, whose item() is an int where it holds an integer
        tracked = as_array(name, "num_batches_tracked", state["num_batches_tracked"])
        if tracked.size != 1:
            got = f"num_batches_tracked has shape {tracked.shape}"
            raise ValueError(f"{name}: {got}, expected ()")
        batches = whole_number(name, "num_batches_tracked", tracked.item(), low=0)
        if np.any(given.get("missed", 0) > batches):
            got = f"missed has {given['missed'].max()}"
            raise ValueError(f"{name}: {got}, expected at most num_batches_tracked, {batches}")
        if self.mode == "population":
            low = given.get("mean_low")
            self._population = Moments(given["count"], given["mean"], given["m2"], low)
        with np.errstate(over="ignore"):
            self.mean[:] = given["mean"]
            self.var[:] = given["var"]
        self.num_batches_tracked = batches
        self._missed = given.get("missed", np.zeros(size, np.int64))

    def _keys(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the keys that a state must have in this mode, and those that it may have."""
        always = ("mean", "var", "num_batches_tracked")
        if self.mode == "population":
            return (*always, "count", "m2"), ("mean_low",)
        return always, ("missed",) if self.mode == "cumulative" else ()

    def __reduce__(self) -> tuple[Any, ...]:
        # not the arrays as they are: the views mean and var would part from _values
        arguments = {key: getattr(self, key) for key in ("momentum", "mode", "correction", "dtype")}
        return _restore, (type(self), self.num_features, arguments, self.state_dict())


def check_keys(
    operation: str, state: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    """Raise ValueError unless `state` has all of the required keys and none beyond the optional."""
    missing = [key for key in required if key not in state]
    unknown = [key for key in state if key not in required and key not in optional]
    if missing or unknown:
        got = f"state has keys {sorted(state)}"
        raise ValueError(f"{operation}: {got}, expected {sorted(required)}")


def _restore(
    cls: type[RunningStats], num_features: int, arguments: dict[str, Any], state: dict[str, Any]
) -> RunningStats:
    made = cls(num_features, **arguments)
    made.load_state_dict(state)
    return made
