"""The dropout layer: what holds the source of seeds and the context of the last forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast import _core
from bnfast._checks import one_of
from bnfast._dropout import (
    MODES,
    check_axes,
    check_rate,
    check_shape_of_gradient,
    dropout,
    dropout_backward,
    dropout_inference,
    inference_factor,
    random_source,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from typing_extensions import Self


class Dropout:
    """Dropout that draws a new mask in each training call, and does nothing random in evaluation.

    Parameters
    ----------
    rate : float, default 0.5
        The probability that an element is dropped, in [0, 1].
    mode : {"inverted", "classic", "alpha"}, default "inverted"
        See :func:`dropout`. "classic" multiplies by 1 - `rate` in evaluation, the others then copy.
    broadcast_axes : iterable of int, default ()
        Axes along which all elements share one decision.
    rng : None, int or numpy.random.Generator, optional
        Where seeds come from: the operating system, a Generator made from a number in [0, 2**64),
        or a Generator, which may be shared. Every training call draws one seed.

    Attributes
    ----------
    rate, mode, broadcast_axes
        As given; they may be set between calls.
    training : bool
        True at first; set by `train` and `eval`.

    Raises
    ------
    TypeError or ValueError
        If an argument is of another kind, or out of the range above.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> drop = bnfast.Dropout(0.5, rng=0)
    >>> x = np.ones(6, np.float32)
    >>> drop(x)
    array([0., 2., 2., 2., 0., 0.], dtype=float32)
    >>> drop.backward(x)
    array([0., 2., 2., 2., 0., 0.], dtype=float32)
    >>> drop.eval()(x)
    array([1., 1., 1., 1., 1., 1.], dtype=float32)
    """

    def __init__(
        self,
        rate: float = 0.5,
        *,
        mode: str = "inverted",
        broadcast_axes: Iterable[int] = (),
        rng: int | np.random.Generator | None = None,
    ) -> None:
        name = "Dropout"
        self.rate = check_rate(name, "rate", rate)
        self.mode = one_of(name, "mode", mode, MODES)
        self.broadcast_axes = check_axes(name, broadcast_axes)
        self.training = True
        self._generator = np.random.default_rng(random_source(name, rng))
        self._differentiate: Callable[[NDArray[Any]], NDArray[Any]] | None = None

    def __repr__(self) -> str:
        axes = f", broadcast_axes={self.broadcast_axes}" if self.broadcast_axes else ""
        return f"Dropout({self.rate:g}, mode={self.mode!r}{axes})"

    def train(self, mode: bool = True) -> Self:
        """Go to training mode, or with False to evaluation mode; return the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Go to evaluation mode, where nothing is dropped; return the layer."""
        return self.train(False)

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return x with elements dropped, or in evaluation what `dropout_inference` returns.

        Parameters
        ----------
        x : ndarray of float32, float64, float16 or bfloat16

        Returns
        -------
        ndarray like `x`
        """
        self._differentiate = None
        return self._drop(x) if self.training else self._scale(x)

    def _drop(self, x: NDArray[Any]) -> NDArray[Any]:
        y, ctx = dropout(
            x, self.rate, seed=self._generator, mode=self.mode, broadcast_axes=self.broadcast_axes
        )
        self._differentiate = lambda dy: dropout_backward(dy, ctx)
        return y

    def _scale(self, x: NDArray[Any]) -> NDArray[Any]:
        y = dropout_inference(x, self.rate, mode=self.mode)
        shape, factor = x.shape, inference_factor(self.rate, self.mode)

        def differentiate(dy: NDArray[Any]) -> NDArray[Any]:
            check_shape_of_gradient("Dropout.backward", dy, shape)
            return _core.scale("Dropout.backward", dy, factor, None)

        self._differentiate = differentiate
        return y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient of the last forward.

        Parameters
        ----------
        dy : ndarray of y's shape
            Gradient of the loss at y.

        Returns
        -------
        ndarray like `dy`

        Raises
        ------
        RuntimeError
            If there was no forward.
        ValueError
            If dy is of another shape than y.
        """
        if self._differentiate is None:
            message = "no forward was run, expected y = drop(x) before drop.backward(dy)"
            raise RuntimeError(f"Dropout.backward: {message}")
        return self._differentiate(dy)

    def __getstate__(self) -> dict[str, Any]:
        # a copy or a pickle of the layer is its state, not what its last forward left
        return {**self.__dict__, "_differentiate": None}
