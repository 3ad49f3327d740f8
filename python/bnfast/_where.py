"""`where` in evaluation: 0 in place of what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._checks import refuse_masked

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def selector(x: NDArray[Any], where: Any, axis: int) -> Callable[[Any], Any]:
    """Return a function that puts 0 where `where` is False, in arrays of x's shape.

    With constant mean and var every element stands alone, so 0 in place of what is left out keeps
    NaN and Inf away from y and the gradients.
    """
    if where is None:
        return lambda values: values
    refuse_masked("BatchNorm", "where", where)
    if not isinstance(where, np.ndarray) or where.dtype != np.bool_:
        got = (
            f"has dtype {where.dtype}"
            if hasattr(where, "dtype")
            else f"is of type {type(where).__name__}"
        )
        raise TypeError(f"BatchNorm: where {got}, expected an array of bool")
    one, without = list(x.shape), list(x.shape)
    one[axis] = 1
    del without[axis]
    try:
        full = where.ndim == x.ndim
        mask = np.broadcast_to(where, one if full else without)
        mask = np.broadcast_to(mask if full else np.expand_dims(mask, axis), x.shape)
    except ValueError as error:
        got, expected = where.shape, f"one that broadcasts to {tuple(without)} or {tuple(one)}"
        raise ValueError(f"BatchNorm: where has shape {got}, expected {expected}") from error

    def part(values: Any) -> Any:
        if not isinstance(values, np.ndarray) or values.shape != x.shape:
            return values  # None, or an error that the core reports
        kept = np.zeros_like(values)
        np.copyto(kept, values, where=mask)
        return kept

    return part
