"""RunningStats: the mean and variance that evaluation normalises by, gathered over the batches."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bnfast._attributes import Fixed, Setting, Values
from bnfast._checks import (
    as_array,
    check_keys,
    one_of,
    real_number,
    refuse_negative,
    saved_values,
    state_dtype,
    whole_number,
    whole_numbers,
)
from bnfast._moments import Moments
from bnfast._sharing import lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

Mode = Literal["ema", "cumulative", "population"]
_MODES: tuple[Mode, ...] = ("ema", "cumulative", "population")
_MOMENTS = ("count", "mean", "m2", "mean_low")


def check_momentum(operation: str, argument: str, value: Any, mode: str = "mode") -> float:
    """Return `value` as the weight of a new batch; `mode` is what the caller's own is called."""
    if value is None:
        hint = f"({mode}='cumulative' averages all batches alike)"
        got = f"{operation}: {argument} is of type NoneType"
        raise TypeError(f"{got}, expected a number in [0, 1] {hint}")
    return real_number(operation, argument, value, low=0, high=1)


def check_mode(operation: str, argument: str, value: Any) -> Mode:
    """Return `value` if it is a mode of running statistics."""
    return one_of(operation, argument, value, _MODES)


def check_correction(operation: str, argument: str, value: Any) -> int:
    """Return `value` if it is 0 or 1."""
    number: int = one_of(operation, argument, value, (0, 1))
    return number


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
        The running values: 0 and 1 at first, then always the same arrays, changed in place. An
        assignment copies into them. In mode "population" they are read-only.
    momentum, correction
        As given; they may be set, for the updates to come.
    num_features, mode, dtype
        As given.
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

    __slots__ = (
        "__weakref__",
        "_batch",
        "_correction",
        "_dtype",
        "_good",
        "_largest",
        "_mean",
        "_missed",
        "_mode",
        "_momentum",
        "_num_batches_tracked",
        "_num_features",
        "_old",
        "_population",
        "_values",
        "_var",
    )
    _momentum: float
    _correction: int
    num_features = Fixed[int]()
    momentum = Setting(check_momentum)
    mode = Fixed[Mode]()
    correction = Setting(check_correction)
    dtype: Fixed[np.dtype[Any]] = Fixed()
    mean: Values[NDArray[Any]] = Values('in mode "population", where it is that of all elements')
    var: Values[NDArray[Any]] = Values(
        'in mode "population", where it is that of all elements', negative=False
    )
    num_batches_tracked = Fixed[int]()

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.1,
        mode: Mode = "ema",
        correction: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        name = type(self).__name__
        self._num_features = whole_number(name, "num_features", num_features, low=1)
        self.momentum = momentum
        self._mode = check_mode(name, "mode", mode)
        self.correction = correction
        self._dtype = state_dtype(name, dtype)
        # Rows mean and var of one array, so that an update handles both in one NumPy call. The
        # rest is scratch for update(): new arrays would take as long as the arithmetic.
        self._values = np.empty((2, self._num_features), self._dtype)
        self._mean, self._var = self._values
        if self._mode == "population":
            self._mean.flags.writeable = self._var.flags.writeable = False
        self._batch = np.empty((2, self._num_features))
        self._old = np.empty((2, self._num_features))
        self._good = np.empty((2, self._num_features), np.bool_)
        self._largest = float(np.finfo(self._dtype).max)
        self.reset()

    def __repr__(self) -> str:
        return (
            f"RunningStats({self._num_features}, momentum={self.momentum:g}, mode={self._mode!r}, "
            f"correction={self.correction}, dtype={self._dtype})"
        )

    def reset(self) -> None:
        """Forget every batch: mean 0, var 1, nothing tracked."""
        with lock:
            self._values[:] = [[0], [1]]
            self._num_batches_tracked = 0
            self._missed = np.zeros(self._num_features, np.int64)
            self._population = Moments.empty(self._num_features)

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
        if len(moments) != self._num_features:
            message = f"moments has {len(moments)} channels, expected {self._num_features}"
            raise ValueError(f"RunningStats.update: {message}")
        # Overflow and 0/0 end as values that are not finite, and those are left out. Everything is
        # computed first, and stored at the end.
        with lock, np.errstate(all="ignore"):
            if self._mode == "population":
                self._update_population(moments)
            else:
                self._update_average(moments)
            self._num_batches_tracked += 1

    def _update_average(self, moments: Moments) -> None:
        batch, old, good = self._batch, self._old, self._good
        mean, var = batch
        # Where count does not exceed the correction the divisor is made 0: the variance is then not
        # finite, and is left out below.
        np.subtract(moments.count, self._correction, out=var)
        np.maximum(var, 0.0, out=var)
        np.divide(moments.m2, var, out=var)
        np.copyto(mean, moments.mean)
        np.abs(batch, out=old)
        np.less_equal(old, self._largest, out=good)  # False for NaN, as comparisons are
        taken = None if np.logical_and.reduce(good, axis=None) else good[0] & good[1]
        missed = self._missed if taken is None else self._missed + ~taken
        weight: float | NDArray[np.float64] = self._momentum
        if self._mode == "cumulative":
            weight = 1.0 / np.maximum(self._num_batches_tracked + 1 - missed, 1)
        np.multiply(batch, weight, out=batch)
        np.multiply(self._values, 1.0 - weight, out=old)
        np.add(batch, old, out=batch)
        np.copyto(self._values, batch, casting="same_kind", where=True if taken is None else taken)
        self._missed = missed

    def _update_population(self, moments: Moments) -> None:
        finite = np.isfinite(moments.mean) & np.isfinite(moments.m2)
        # A channel is left out by a count of 0: merging ignores what stands beside it.
        count = np.where(finite, moments.count, 0)
        taken = Moments._from_core(count, moments.mean, moments.m2, moments.mean_low)
        seen = self._population.merge(taken)
        finite = np.isfinite(seen.mean) & np.isfinite(seen.m2)
        if not finite.all():
            # Both parts are finite, but float64 cannot hold the whole: the batch is left out, too.
            count = np.where(finite, count, 0)
            taken = Moments._from_core(count, moments.mean, moments.m2, moments.mean_low)
            seen = self._population.merge(taken)
        self._batch[:] = seen.mean, seen.var(self._correction)
        self._good[:] = seen.count > 0, seen.count > self._correction
        np.copyto(self._values, self._batch, casting="same_kind", where=self._good)
        self._population = seen

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
        return self._state("")

    def _state(self, prefix: str) -> dict[str, NDArray[Any]]:
        with lock:
            mean, var = self._values.copy()
            tracked = np.array(self._num_batches_tracked, np.int64)
            missed, seen = self._missed.copy(), self._population
        state = {"mean": mean, "var": var, "num_batches_tracked": tracked}
        if self._mode == "population":
            state.update({key: getattr(seen, key).copy() for key in _MOMENTS})
        elif self._mode == "cumulative" and missed.any():
            state["missed"] = missed
        return {_entry(prefix, key): value for key, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned, into the arrays that are there.

        Parameters
        ----------
        state : mapping of str to array_like
            The keys of `state_dict` in the same mode. "missed" and "mean_low" may be left out, and
            so may "num_batches_tracked", which is then 0 (old versions of PyTorch do not save it).
            Values may also be float16 or bfloat16, and PyTorch's tensors.

        Raises
        ------
        TypeError or ValueError
            If `state` is no mapping, a key is missing or unknown, or an entry has a wrong shape or
            dtype, or is negative in "var". Nothing has been changed then.
        """
        operation = "RunningStats.load_state_dict"
        check_keys(operation, state, *self._keys(""))
        self._load(self._checked(operation, state, ""))

    def _keys(self, prefix: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the keys that a state must have in this mode, and those that it may have."""
        required, optional = ["mean", "var"], ["num_batches_tracked"]
        if self._mode == "population":
            required += ["count", "m2"]
            optional += ["mean_low"]
        elif self._mode == "cumulative":
            optional += ["missed"]
        named = partial(_entry, prefix)
        return tuple(map(named, required)), tuple(map(named, optional))

    def _checked(self, operation: str, state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """Return what a state with the keys of this mode holds, by their names without prefix."""
        given: dict[str, Any] = {"num_batches_tracked": 0}
        for key in ("num_batches_tracked", "missed", "var", *_MOMENTS):
            name = _entry(prefix, key)
            if name not in state:
                continue
            value = state[name]
            if key == "num_batches_tracked":
                # Both NumPy and PyTorch save it as an array without dimensions.
                array = as_array(operation, name, value)
                if array.size != 1:
                    got = f"{name} has shape {array.shape}"
                    raise ValueError(f"{operation}: {got}, expected ()")
                given[key] = whole_number(operation, name, array.item(), low=0, high=2**62)
            elif key in ("count", "missed"):
                given[key] = whole_numbers(operation, name, value, self._mean.shape)
            else:
                given[key] = saved_values(operation, name, value, self._mean.shape)
            if key in ("var", "m2"):
                refuse_negative(operation, name, given[key])
        batches = given["num_batches_tracked"]
        if np.any(given.get("missed", 0) > batches):
            got = f"{prefix}missed has {given['missed'].max()}"
            raise ValueError(f"{operation}: {got}, expected at most num_batches_tracked, {batches}")
        return given

    def _load(self, given: dict[str, Any]) -> None:
        seen = Moments.empty(self._num_features)
        if self._mode == "population":
            seen = Moments(given["count"], given["mean"], given["m2"], given.get("mean_low"))
        with lock, np.errstate(all="ignore"):
            self._values[0] = given["mean"]
            self._values[1] = given["var"]
            self._num_batches_tracked = given["num_batches_tracked"]
            self._missed = given.get("missed", np.zeros(self._num_features, np.int64))
            self._population = seen

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Made anew from the state: in copies of the slots the views mean and var would no longer
        # be views of _values.
        arguments = {key: getattr(self, key) for key in ("momentum", "mode", "correction", "dtype")}
        more = super().__reduce_ex__(2)[2]
        # A tuple (attributes, slots), of which those of derived classes are kept.
        if isinstance(more, tuple):
            for key in RunningStats.__slots__:
                more[1].pop(key, None)
        return _restore, (type(self), self._num_features, arguments, self.state_dict()), more


def _entry(prefix: str, key: str) -> str:
    return key if key == "num_batches_tracked" else prefix + key


def _restore(
    cls: type[RunningStats], num_features: int, arguments: dict[str, Any], state: dict[str, Any]
) -> RunningStats:
    made = cls.__new__(cls)
    # The constructor of a derived class may take other arguments.
    RunningStats.__init__(made, num_features, **arguments)
    made.load_state_dict(state)
    return made
