"""Checks of arguments: numbers, named choices, arrays and states, as what the layers keep."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

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
    """Return `value` as an array; what NumPy cannot read is a TypeError."""
    refuse_masked(operation, argument, value)
    if hasattr(value, "detach"):
        # NumPy reads no tensors of PyTorch that require a gradient, or are on a GPU.
        value = value.detach()
        value = value.cpu() if hasattr(value, "cpu") else value
    got = type(value).__name__
    refused = TypeError(f"{operation}: {argument} is of type {got}, expected an array")
    if value is None:  # NumPy would make an array of dtype object
        raise refused
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise refused from error


def real_numbers(
    operation: str, argument: str, value: Any, shape: tuple[int, ...] | None
) -> NDArray[np.float32] | NDArray[np.float64]:
    """Return `value` as a float32 or float64 array of this shape (None: 1-D, of any length)."""
    array = as_array(operation, argument, value)
    if array.dtype.kind in "iu" and isinstance(value, (list, tuple)):
        array = array.astype(np.float64)  # only an array has chosen its dtype
    if array.dtype not in (np.float32, np.float64):
        expected = "float32 or float64 in native byte order"
        raise TypeError(f"{operation}: {argument} has dtype {array.dtype}, expected {expected}")
    _check_shape(operation, argument, array, shape)
    return array


def saved_values(
    operation: str, argument: str, value: Any, shape: tuple[int, ...]
) -> NDArray[np.float32] | NDArray[np.float64]:
    """Return `real_numbers` of an entry of a state, which may also be 16-bit, or PyTorch's."""
    if str(getattr(value, "dtype", None)) == "torch.bfloat16":
        value = value.float()  # NumPy does not read PyTorch's bfloat16
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        value = as_array(operation, argument, value)
        if value.dtype.name in ("float16", "bfloat16") and value.dtype.isnative:
            with np.errstate(all="ignore"):
                value = value.astype(np.float32)
    return real_numbers(operation, argument, value, shape)


def whole_numbers(
    operation: str, argument: str, value: Any, shape: tuple[int, ...] | None
) -> NDArray[np.int64]:
    """Return `value` as a new int64 array of this shape (as above), no entry of it negative."""
    array = as_array(operation, argument, value)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{operation}: {argument} has dtype {array.dtype}, expected int64")
    _check_shape(operation, argument, array, shape)
    numbers: NDArray[np.int64] = array.astype(np.int64)
    refuse_negative(operation, argument, numbers)
    return numbers


def refuse_negative(operation: str, argument: str, array: NDArray[Any]) -> None:
    """Raise ValueError if an entry is negative; NaN is not."""
    if np.any(array < 0):
        lowest = f"{np.nanmin(array):g}"
        raise ValueError(f"{operation}: {argument} has {lowest}, expected no negative entry")


def _check_shape(
    operation: str, argument: str, array: NDArray[Any], shape: tuple[int, ...] | None
) -> None:
    right = array.ndim == 1 if shape is None else array.shape == shape
    if not right:
        expected = "one entry a channel" if shape is None else f"{shape}"
        raise ValueError(f"{operation}: {argument} has shape {array.shape}, expected {expected}")


def check_input(operation: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array, so that a layer can look at its shape."""
    if not isinstance(x, np.ndarray) and not hasattr(x, "__dlpack__"):
        got = type(x).__name__
        raise TypeError(f"{operation}: x is of type {got}, expected numpy.ndarray")


def check_channels(operation: str, x: Any, axis: int, channels: int) -> None:
    """Raise unless `x` is an array with so many channels on `axis`.

    The core cannot check this: without gamma and beta it takes any number of channels.
    """
    check_input(operation, x)
    if not -x.ndim <= axis < x.ndim:
        limits = f"[{-x.ndim}, {x.ndim}) for x with shape {x.shape}"
        raise ValueError(f"{operation}: axis is {axis}, expected one in {limits}")
    if x.shape[axis] != channels:
        expected = f"{channels} channels on axis {axis}"
        raise ValueError(f"{operation}: x has shape {x.shape}, expected {expected}")


def state_dtype(operation: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Return `dtype` as float32 or float64, which the state of layers is kept in."""
    try:
        kind = None if dtype is None else np.dtype(dtype)  # np.dtype(None) would be float64
    except (TypeError, ValueError, SyntaxError):
        kind = None
    if kind not in (np.float32, np.float64):
        raise TypeError(f"{operation}: dtype is {dtype!r}, expected float32 or float64")
    return kind


def check_keys(
    operation: str, state: Any, required: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    """Raise unless `state` is a mapping with all required keys and none beyond the optional."""
    if not isinstance(state, Mapping):
        got = type(state).__name__
        raise TypeError(f"{operation}: state is of type {got}, expected a mapping")
    missing = [key for key in required if key not in state]
    unknown = [key for key in state if key not in required and key not in optional]
    parts = (("lacks the keys", missing), ("has the unknown keys", unknown))
    if wrong := [f"{verb} {keys}" for verb, keys in parts if keys]:
        got = f"state {' and '.join(wrong)}"
        raise ValueError(f"{operation}: {got}, expected those that state_dict returns")
