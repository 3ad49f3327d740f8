"""What every norm's layer has: gamma, beta, their gradients and state; eps and what follows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._attributes import Fixed, Gradient, Setting, Values
from bnfast._checks import check_keys, one_of, real_number, saved_values, state_dtype, truth
from bnfast._choices import ACTIVATIONS
from bnfast._dropout import check_rate
from bnfast._layer import Layer
from bnfast._libraries import to_numpy
from bnfast._sharing import lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

    Keys = tuple[str, ...]


class AffineLayer(Layer):
    """Base of the norms: gamma and beta of one shape, each of which may be missing."""

    __slots__ = (
        "_activation",
        "_beta",
        "_dbeta",
        "_dgamma",
        "_dropout",
        "_dtype",
        "_eps",
        "_gamma",
        "_shape",
    )
    _activation: str | None
    _dropout: float
    _eps: float
    eps = Setting(partial(real_number, low=0))
    activation: Setting[str | None] = Setting(partial(one_of, choices=tuple(ACTIVATIONS)))
    dropout = Setting(check_rate)
    dtype: Fixed[np.dtype[Any]] = Fixed()
    gamma: Values[NDArray[Any] | None] = Values("in a layer without it")
    beta: Values[NDArray[Any] | None] = Values("in a layer without it")
    dgamma: Gradient[NDArray[Any] | None] = Gradient("gamma")
    dbeta: Gradient[NDArray[Any] | None] = Gradient("beta")

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        eps: float,
        affine: bool,
        bias: bool,
        activation: str | None,
        dropout: float,
        dtype: DTypeLike,
        rng: int | np.random.Generator | None,
    ) -> None:
        super().__init__(rng)
        name = type(self).__name__
        self.eps = eps
        self.activation = activation
        self.dropout = dropout
        affine, bias = truth(name, "affine", affine), truth(name, "bias", bias)
        self._shape = shape
        self._dtype = state_dtype(name, dtype)
        self._gamma = np.ones(shape, self._dtype) if affine else None
        self._beta = np.zeros(shape, self._dtype) if affine and bias else None
        self._set_gradients(None, None)

    def _options(self, training: bool) -> dict[str, Any]:
        """Return the arguments that stand for eps, the activation and, in training, dropout."""
        options: dict[str, Any] = {"eps": self._eps, "activation": self._activation}
        if training and self._dropout:
            options.update(dropout=self._dropout, seed=self._generator)
        return options

    def _set_gradients(self, dgamma: NDArray[Any] | None, dbeta: NDArray[Any] | None) -> None:
        """Keep the gradients, as NumPy's arrays, which gamma and beta are."""
        dgamma, dbeta = (
            None if value is None else to_numpy("backward", "gradient", value)
            for value in (dgamma, dbeta)
        )
        with lock:
            self._dgamma, self._dbeta = dgamma, dbeta

    def _parameters(self) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Return copies of gamma and beta: of the same state, as the caller holds the lock."""
        gamma, beta = self._gamma, self._beta
        return None if gamma is None else gamma.copy(), None if beta is None else beta.copy()

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the state under PyTorch's names.

        Returns
        -------
        dict of str to ndarray
            "weight" and "bias": gamma and beta, as far as the layer has them.
        """
        with lock:
            named = zip(("weight", "bias"), self._parameters(), strict=True)
            return {key: array for key, array in named if array is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, into the arrays that are there.

        Parameters
        ----------
        state : mapping of str to array_like
            What `state_dict` returned, or that of PyTorch's layer of the same name. Without "bias"
            beta is 0 (PyTorch's `bias=False`). Values may also be float16 or bfloat16.

        Raises
        ------
        TypeError or ValueError
            If `state` is no mapping, a key is missing or unknown, or an entry has a wrong shape or
            dtype. Nothing has been changed then.
        """
        operation = f"{type(self).__name__}.load_state_dict"
        check_keys(operation, state, *self._parameter_keys())
        self._load_parameters(self._checked_parameters(operation, state))

    def _parameter_keys(self) -> tuple[Keys, Keys]:
        """Return the keys that a state must have and those that it may have."""
        return () if self._gamma is None else ("weight",), () if self._beta is None else ("bias",)

    def _checked_parameters(self, operation: str, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a state, whose keys were checked, holds of gamma and beta."""
        keys = (key for key in ("weight", "bias") if key in state)
        return {key: saved_values(operation, key, state[key], self._shape) for key in keys}

    def _load_parameters(self, checked: dict[str, Any]) -> None:
        with lock, np.errstate(all="ignore"):
            if self._gamma is not None:
                self._gamma[:] = checked["weight"]
            if self._beta is not None:
                self._beta[:] = checked.get("bias", 0)
