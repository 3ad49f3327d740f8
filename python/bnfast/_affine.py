"""Layers with a scale and a shift to learn: gamma, beta, their gradients, and their state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._attributes import Fixed, Gradient, Values
from bnfast._checks import saved_values
from bnfast._layer import Layer
from bnfast._sharing import lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class AffineLayer(Layer):
    """Base of the layers that have gamma and beta, one entry a channel, or neither."""

    __slots__ = ("_beta", "_dbeta", "_dgamma", "_dtype", "_gamma")
    dtype: Fixed[np.dtype[Any]] = Fixed()
    gamma: Values[NDArray[Any] | None] = Values("without affine")
    beta: Values[NDArray[Any] | None] = Values("without affine")
    dgamma: Gradient[NDArray[Any] | None] = Gradient("gamma")
    dbeta: Gradient[NDArray[Any] | None] = Gradient("beta")

    def _make_parameters(self, size: int, affine: bool, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._gamma = np.ones(size, dtype) if affine else None
        self._beta = np.zeros(size, dtype) if affine else None
        self._set_gradients(None, None)

    def _set_gradients(self, dgamma: NDArray[Any] | None, dbeta: NDArray[Any] | None) -> None:
        with lock:
            self._dgamma, self._dbeta = dgamma, dbeta

    def _parameters(self) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Return copies of gamma and beta: of the same state, as the caller holds the lock."""
        if self._gamma is None or self._beta is None:
            return None, None
        return self._gamma.copy(), self._beta.copy()

    def _saved_parameters(self) -> dict[str, NDArray[Any]]:
        gamma, beta = self._parameters()
        return {} if gamma is None or beta is None else {"weight": gamma, "bias": beta}

    def _checked_parameters(self, operation: str, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a state holds of "weight" and "bias"; none, where there are no parameters."""
        if self._gamma is None:
            return {}
        keys = (key for key in ("weight", "bias") if key in state)
        return {key: saved_values(operation, key, state[key], self._gamma.size) for key in keys}

    def _load_parameters(self, checked: dict[str, Any]) -> None:
        if self._gamma is not None and self._beta is not None:
            with lock, np.errstate(all="ignore"):
                self._gamma[:] = checked["weight"]
                self._beta[:] = checked.get("bias", 0)
