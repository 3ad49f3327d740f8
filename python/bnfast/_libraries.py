"""Arrays of other libraries as NumPy's, and back, where Python code computes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray


def is_foreign(value: Any) -> bool:
    """Whether `value` is an array of another library."""
    return hasattr(value, "__dlpack__") and not isinstance(value, (np.ndarray, np.generic))


def to_numpy(operation: str, argument: str, value: Any) -> NDArray[Any]:
    """Return a copy of another library's array, or the array itself if it is NumPy's."""
    if isinstance(value, np.ndarray):
        return value
    return _core.as_numpy(operation, argument, _detached(value))


def to_library(array: NDArray[Any], like: Any) -> Any:
    """Return a copy of `array` beside `like`, in its library; itself where that is NumPy's."""
    return _core.as_library(array, _detached(like)) if is_foreign(like) else array


def _detached(value: Any) -> Any:
    """Return PyTorch's tensor without its gradient, which a copy does not need."""
    return value.detach() if hasattr(value, "detach") else value
