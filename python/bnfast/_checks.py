"""Checks of arguments: numbers, named choices and per-channel values, as what the layers keep."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T")


def is_real(value: Any) -> bool:
    """Tell whether `value` is a real number, a 0-d array of a float or integer dtype included.

    Examples
    --------
    >>> import numpy as np
    >>> [is_real(value) for value in (0.5, np.float16(1), np.array(2))]
    [True, True, True]
    >>> [is_real(value) for value in (True, np.array(True), 1j, "1", np.ones(1))]
    [False, False, False, False, False]
    """
    if not isinstance(value, (np.generic, np.ndarray)):
        return isinstance(value, Real) and not isinstance(value, bool)
    known = value.dtype.kind in "iuf" or value.dtype.name == "bfloat16"
    return known and value.ndim == 0 and not isinstance(value, np.ma.MaskedArray)


def whole_number(
    operation: str, argument: str, value: Any, *, low: int, high: int | None = None
) -> int:
    """Return `value` as an int in [low, high]; bool and float are a TypeError."""
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        got = type(value).__name__
        raise TypeError(f"{operation}: {argument} is of type {got}, expected an integer")
    if number < low:
        raise ValueError(f"{operation}: {argument} is {number}, expected at least {low}")
    if high is not None and number > high:
        raise ValueError(f"{operation}: {argument} is {number}, expected at most {high}")
    return number


def real_number(
    operation: str, argument: str, value: Any, *, low: float, high: float = float("inf")
) -> float:
    """Return `value` as a finite float in [low, high]; what is no real number is a TypeError."""
    bounds = f"in [{low:g}, {high:g}]" if np.isfinite(high) else f">= {low:g} and finite"
    if not is_real(value):
        got = type(value).__name__
        raise TypeError(f"{operation}: {argument} is of type {got}, expected a number {bounds}")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf") if value > 0 else -float("inf")
    if not (np.isfinite(number) and low <= number <= high):
        raise ValueError(f"{operation}: {argument} is {number:g}, expected a number {bounds}")
    return number


def truth(operation: str, argument: str, value: Any) -> bool:
    """Return `value` as a bool; what is neither a bool nor an int is a TypeError."""
    if not isinstance(value, (int, np.bool_)):
        got = type(value).__name__
        raise TypeError(f"{operation}: {argument} is of type {got}, expected a bool")
    return bool(value)


def one_of(operation: str, argument: str, value: _T, choices: tuple[_T, ...]) -> _T:
    """Return `value`, which is one of the choices; anything else is a ValueError."""
    plain = (
        value.item() if isinstance(value, (np.generic, np.ndarray)) and is_real(value) else value
    )
    named = isinstance(plain, (str, int, type(None))) and not isinstance(plain, bool)
    if not named or plain not in choices:
        shown = ", ".join(map(repr, choices))
        raise ValueError(f"{operation}: {argument} is {value!r}, expected one of {shown}")
    return choices[choices.index(plain)]


def refuse_masked(operation: str, argument: str, value: Any) -> None:
    """Raise TypeError if `value` is a masked array, whose mask nothing here looks at."""
    if isinstance(value, np.ma.MaskedArray):
        expected = "its .data (masks are ignored: leave elements out by where=~mask)"
        raise TypeError(f"{operation}: {argument} is a masked array, expected {expected}")


def as_array(operation: str, argument: str, value: Any) -> NDArray[Any]:
    """Return `value` as an array; what NumPy cannot read (a tensor on a GPU) is a TypeError."""
    refuse_masked(operation, argument, value)
    if hasattr(value, "detach"):
        value = value.detach()  # NumPy does not read tensors of PyTorch that require a gradient
    got = type(value).__name__
    refused = TypeError(f"{operation}: {argument} is of type {got}, expected an array")
    if value is None:  # NumPy would make an array of dtype object
        raise refused
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise refused from error


def per_channel(
    operation: str, argument: str, value: Any, channels: int | None
) -> NDArray[np.float32] | NDArray[np.float64]:
    """Return `value` as a 1-D float32 or float64 array of `channels` entries (None: any number)."""
    array = as_array(operation, argument, value)
    if array.dtype.kind in "iu" and isinstance(value, (list, tuple)):
        array = array.astype(np.float64)  # only an array has chosen its dtype
    if array.dtype not in (np.float32, np.float64):
        expected = "float32 or float64 in native byte order"
        raise TypeError(f"{operation}: {argument} has dtype {array.dtype}, expected {expected}")
    _check_shape(operation, argument, array, channels)
    return array


def saved_values(
    operation: str, argument: str, value: Any, channels: int
) -> NDArray[np.float32] | NDArray[np.float64]:
    """Return `per_channel` of an entry of a state, which may also be 16-bit, or PyTorch's."""
    if str(getattr(value, "dtype", None)) == "torch.bfloat16":
        value = value.float()  # NumPy does not read PyTorch's bfloat16
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        value = as_array(operation, argument, value)
        if value.dtype.name in ("float16", "bfloat16") and value.dtype.isnative:
            with np.errstate(all="ignore"):
                value = value.astype(np.float32)
    return per_channel(operation, argument, value, channels)


def whole_numbers(
    operation: str, argument: str, value: Any, channels: int | None
) -> NDArray[np.int64]:
    """Return `value` as a new 1-D int64 array of `channels` entries, none of them negative."""
    array = as_array(operation, argument, value)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{operation}: {argument} has dtype {array.dtype}, expected int64")
    _check_shape(operation, argument, array, channels)
    numbers: NDArray[np.int64] = array.astype(np.int64)
    refuse_negative(operation, argument, numbers)
    return numbers


def refuse_negative(operation: str, argument: str, array: NDArray[Any]) -> None:
    """Raise ValueError if an entry is negative; NaN is not."""
    if np.any(array < 0):
        lowest = f"{np.nanmin(array):g}"
        raise ValueError(f"{operation}: {argument} has {lowest}, expected no negative entry")


def _check_shape(operation: str, argument: str, array: NDArray[Any], channels: int | None) -> None:
    if array.ndim != 1 or channels not in (None, array.size):
        expected = "one entry a channel" if channels is None else f"({channels},)"
        raise ValueError(f"{operation}: {argument} has shape {array.shape}, expected {expected}")
